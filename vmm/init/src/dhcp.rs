//! The two DHCP messages that a guest and passt exchange: a question and its offer
//! (RFC 2131, RFC 2132). passt keeps no leases, so that its offer is the answer.

use std::net::Ipv4Addr;

/// Where servers listen.
pub const SERVER_PORT: u16 = 67;
/// Where clients listen.
pub const CLIENT_PORT: u16 = 68;

/// What a message begins with: a request or a reply.
const REQUEST: u8 = 1;
const REPLY: u8 = 2;
/// Ethernet, with addresses of six bytes.
const ETHERNET: [u8; 2] = [1, 6];
/// The answer is for a card that has no address yet.
const BROADCAST: u16 = 0x8000;
/// The length of the part before the options, and what they begin with.
const FIXED: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Options.
const PAD: u8 = 0;
const END: u8 = 255;
const SUBNET_MASK: u8 = 1;
const ROUTER: u8 = 3;
const RESOLVER: u8 = 6;
const MESSAGE_TYPE: u8 = 53;
const ASKED_FOR: u8 = 55;
/// Types of messages.
const DISCOVER: u8 = 1;
const OFFER: u8 = 2;
const ACK: u8 = 5;

/// What a server offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// The address of the card.
    pub address: Ipv4Addr,
    /// How many bits of it name the network.
    pub prefix: u8,
    /// The way to other networks.
    pub gateway: Option<Ipv4Addr>,
    /// Servers that know names.
    pub resolvers: Vec<Ipv4Addr>,
}

/// The question of a card with this address.
#[must_use]
pub fn question(transaction: u32, mac: [u8; 6]) -> Vec<u8> {
    let mut out = vec![REQUEST, ETHERNET[0], ETHERNET[1], 0];
    out.extend_from_slice(&transaction.to_be_bytes());
    out.extend_from_slice(&[0, 0]); // seconds
    out.extend_from_slice(&BROADCAST.to_be_bytes());
    out.extend_from_slice(&[0; 16]); // four addresses
    out.extend_from_slice(&mac);
    out.resize(FIXED, 0);
    out.extend_from_slice(&COOKIE);
    out.extend_from_slice(&[MESSAGE_TYPE, 1, DISCOVER]);
    out.extend_from_slice(&[ASKED_FOR, 3, SUBNET_MASK, ROUTER, RESOLVER]);
    out.push(END);
    out
}

impl Offer {
    /// Reads the answer to a question; `None` if the bytes are none.
    #[must_use]
    pub fn parse(bytes: &[u8], transaction: u32) -> Option<Self> {
        let own = bytes.get(4..8)? == transaction.to_be_bytes();
        let cookie = bytes.get(FIXED..FIXED + COOKIE.len())? == COOKIE;
        if bytes.first() != Some(&REPLY) || !own || !cookie {
            return None;
        }
        let mut offer = Self {
            address: address(bytes.get(16..20)?)?,
            prefix: 32,
            gateway: None,
            resolvers: Vec::new(),
        };
        let mut offered = false;
        let mut rest = bytes.get(FIXED + COOKIE.len()..)?;
        while let Some((&option, after)) = rest.split_first() {
            match option {
                PAD => {
                    rest = after;
                    continue;
                }
                END => break,
                _ => {}
            }
            let (&len, after) = after.split_first()?;
            let value = after.get(..len.into())?;
            rest = after.get(len.into()..)?;
            match option {
                MESSAGE_TYPE => offered = matches!(value, [OFFER | ACK]),
                SUBNET_MASK => offer.prefix = prefix(address(value)?)?,
                ROUTER => offer.gateway = value.get(..4).and_then(address),
                RESOLVER => offer.resolvers = value.chunks_exact(4).filter_map(address).collect(),
                _ => {}
            }
        }
        let usable = !offer.address.is_unspecified() && !offer.address.is_broadcast();
        (offered && usable).then_some(offer)
    }

    /// Whether the gateway is in the network of the address.
    #[must_use]
    pub fn gateway_is_near(&self) -> bool {
        let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix));
        let network = |address: Ipv4Addr| address.to_bits() & mask.unwrap_or(0);
        self.gateway
            .is_some_and(|gateway| network(gateway) == network(self.address))
    }
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

/// The length of a mask, whose ones come first.
fn prefix(mask: Ipv4Addr) -> Option<u8> {
    let ones = mask.to_bits().leading_ones();
    (mask.to_bits().count_ones() == ones).then_some(u8::try_from(ones).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As passt answers: the fixed part, and options.
    fn answer(options: &[u8]) -> Vec<u8> {
        let mut bytes = question(7, [0x52, 0x54, 0, 1, 2, 3]);
        bytes[0] = REPLY;
        bytes[16..20].copy_from_slice(&[10, 0, 2, 15]);
        bytes.truncate(FIXED + COOKIE.len());
        bytes.extend_from_slice(options);
        bytes
    }

    #[test]
    fn a_question_names_the_card_and_has_one_type() {
        let bytes = question(0x0102_0304, [0x52, 0x54, 0, 1, 2, 3]);
        assert_eq!(bytes[..8], [1, 1, 6, 0, 1, 2, 3, 4]);
        assert_eq!(bytes[28..34], [0x52, 0x54, 0, 1, 2, 3]);
        assert_eq!(bytes[236..243], [99, 130, 83, 99, 53, 1, 1]);
        assert_eq!(bytes.last(), Some(&255));
    }

    #[test]
    fn an_offer_has_address_network_gateway_and_resolvers() {
        let options = [
            53, 1, 2, 0, 1, 4, 255, 255, 255, 0, 3, 4, 10, 0, 2, 2, 6, 8, 10, 0, 2, 3, 9, 9, 9, 9,
            255, 77,
        ];
        let offer = Offer::parse(&answer(&options), 7).unwrap();
        let expected = Offer {
            address: Ipv4Addr::new(10, 0, 2, 15),
            prefix: 24,
            gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            resolvers: vec![Ipv4Addr::new(10, 0, 2, 3), Ipv4Addr::new(9, 9, 9, 9)],
        };
        assert_eq!(offer, expected);
        assert!(offer.gateway_is_near());
        let far = Offer {
            prefix: 32,
            ..offer
        };
        assert!(!far.gateway_is_near());
        assert_eq!(Offer::parse(&answer(&options), 8), None, "another's");
    }

    #[test]
    fn bytes_that_are_no_offer_are_none() {
        let options = [53, 1, 2, 1, 4, 255, 255, 255, 0, 255];
        let whole = answer(&options);
        for len in 0..whole.len() - 1 {
            // Without its last options it may still be one, with another network.
            let parsed = Offer::parse(&whole[..len], 7);
            assert!(parsed.is_none() || len > FIXED + 4 + 2, "{len}");
        }
        for options in [
            &[53, 1, 6, 255][..],
            &[255],
            &[53, 1, 2, 1, 4, 255, 0, 255, 0, 255],
            &[53, 1, 2, 1, 3, 255, 255, 255, 255],
        ] {
            assert_eq!(Offer::parse(&answer(options), 7), None, "{options:?}");
        }
    }
}
