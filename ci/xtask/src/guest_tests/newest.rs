//! The newest kernel of Debian, which is of another release than this machine's, as host and
//! as guest. One of its tests runs always, the others on request.

use super::{GuestTest, hybrid, models, perf, perf_test, rdpmc};

/// Its series.
pub(super) const SERIES: &str = "7";

/// The word that runs the tests which do not run always.
const ON_REQUEST: &str = "newest";

/// Every test of it.
pub(super) fn all() -> Vec<GuestTest> {
    let models = [(SERIES, SERIES), (SERIES, "6.12"), ("6.12", SERIES)];
    let models = models.into_iter().flat_map(|(host, guest)| {
        models::on(host, guest).map(move |test| under(&format!("host-{host}/"), test))
    });
    let readers = ["6.1", "6.12", SERIES].map(|host| rdpmc::row(host, SERIES, "1-vcpu"));
    let others = [
        perf::doctor(SERIES),
        perf_test::short(SERIES),
        hybrid::sampled_hybrid_guest("6.12", SERIES),
    ];
    let others = readers.into_iter().chain(others);
    let others = others.map(|test| under("", test));
    models.chain(others).map(on_request).collect()
}

fn under(folder: &str, test: GuestTest) -> GuestTest {
    GuestTest {
        name: format!("{ON_REQUEST}/{folder}{}", test.name),
        ..test
    }
}

/// The test as one that runs on request, unless it is the one.
fn on_request(test: GuestTest) -> GuestTest {
    let is_of_both = test.host_kernel == SERIES && test.guest_kernel == SERIES;
    let runs_always = is_of_both && test.name.contains("model/amd-v2");
    GuestTest {
        on_request: if runs_always { "" } else { ON_REQUEST },
        ..test
    }
}
