//! The API's requests for a migration.

use std::time::Duration;

use super::http::Response;
use super::report::MigrationRequest;
use super::routes::RouteCall;
use super::vm::VmControl;
use crate::error_text::one_line;
use crate::machine::MoveOrder;

/// The longest down-time that can be allowed.
const MOST_DOWNTIME_MS: u64 = 60_000;

impl VmControl {
    pub(super) fn migration(&mut self, _: &RouteCall<'_>) -> Response {
        Response::json(200, &self.machine.mover.report())
    }

    pub(super) fn migrate(&mut self, call: &RouteCall<'_>) -> Response {
        let request: MigrationRequest = match serde_json::from_slice(call.body) {
            Ok(request) => request,
            Err(error) => {
                let why =
                    format!("the body: {error}; expected: {{\"socket\": \"/absolute/path\"}}");
                return Response::error(400, &why);
            }
        };
        if !request.socket.is_absolute() {
            return Response::error(400, "the socket of a destination needs an absolute path");
        }
        if !(1..=MOST_DOWNTIME_MS).contains(&request.downtime_ms) {
            let why = format!("downtime_ms: expected: 1 to {MOST_DOWNTIME_MS}");
            return Response::error(400, &why);
        }
        let order = MoveOrder {
            socket: request.socket,
            downtime: Duration::from_millis(request.downtime_ms),
        };
        match self.machine.migrate(order) {
            Ok(()) => Response::json(202, &self.machine.mover.report()),
            Err(error) => Response::error(409, &one_line(&error)),
        }
    }

    pub(super) fn cancel_migration(&mut self, _: &RouteCall<'_>) -> Response {
        match self.machine.mover.cancel() {
            Ok(()) => Response::json(202, &self.machine.mover.report()),
            Err(error) => Response::error(409, &one_line(&error)),
        }
    }
}
