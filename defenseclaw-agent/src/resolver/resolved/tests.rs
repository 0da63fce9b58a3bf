//! Which entries an address gets, and for how long.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{
    super::names::tests::{entry, host, names as policy},
    *,
};
use crate::model::{Effects, PolicyAction};

const NOW: BootTime = BootTime(1_000 * SECOND);

fn origin(name: &str, aliases: &[&str], trusted: bool) -> Origin {
    let aliases = aliases.iter().map(|alias| HostName::from_text(alias)).collect();
    Origin { name: HostName::from_text(name), aliases, trusted }
}

fn connect(rule: u16, action: PolicyAction) -> Entry {
    entry(Effects::NET_CONNECT, rule, action)
}

fn address(last: u8) -> IpAddr {
    [192, 0, 2, last].into()
}

fn rules(permit: &Permit) -> Vec<u16> {
    permit.entries.iter().map(|(_, entry)| entry.rule).collect()
}

fn three() -> Names {
    use PolicyAction::{Allow, Block};
    let port = Ports { first: 25, last: 25 };
    policy(
        vec![
            host("a.example.com", vec![(Ports::ANY, connect(1, Allow))]),
            host("*.example.com", vec![(port, connect(2, Block))]),
            host("b.example.com", vec![(Ports::ANY, connect(3, Allow))]),
            host("mail.example.org", vec![(port, connect(4, Block))]),
        ],
        Vec::new(),
    )
}

#[test]
fn an_address_gets_what_is_said_of_its_name_in_order() {
    let mut resolved = Resolved::default();
    let permits =
        resolved.learn(&three(), NOW, &origin("a.example.com", &[], true), &[(address(1), 300)]).unwrap();
    assert_eq!(permits.len(), 1);
    assert_eq!(permits[0].0, address(1));
    assert_eq!(rules(&permits[0].1), [1, 2], "the longer pattern first, although it is the wider range");
    assert_eq!(permits[0].1.expires, BootTime(NOW.0 + (300 + GRACE) * SECOND));
    let silent =
        resolved.learn(&three(), NOW, &origin("example.net", &[], true), &[(address(2), 300)]).unwrap();
    assert_eq!(silent, []);
}

#[test]
fn times_have_a_floor_and_a_ceiling() {
    for (ttl, seconds) in [(0, 60), (59, 60), (61, 61), (u32::MAX, 7 * 24 * 3600)] {
        assert_eq!(expiry(NOW, ttl), BootTime(NOW.0 + (seconds + GRACE) * SECOND), "{ttl}");
    }
}

#[test]
fn a_strange_server_permits_nothing_but_may_restrict() {
    let mut resolved = Resolved::default();
    let permits =
        resolved.learn(&three(), NOW, &origin("a.example.com", &[], false), &[(address(1), 9)]).unwrap();
    assert_eq!(rules(&permits[0].1), [2]);
    let permits =
        resolved.learn(&three(), NOW, &origin("b.example.com", &[], true), &[(address(1), 9)]).unwrap();
    assert_eq!(rules(&permits[0].1), [2, 3]);
}

#[test]
fn names_that_share_an_address_share_what_is_said() {
    let mut resolved = Resolved::default();
    let learn = |resolved: &mut Resolved, now, name| {
        resolved.learn(&three(), now, &origin(name, &[], true), &[(address(1), 60)]).unwrap().remove(0).1
    };
    assert_eq!(rules(&learn(&mut resolved, NOW, "b.example.com")), [3, 2]);
    let both = learn(&mut resolved, NOW, "mail.example.org");
    assert_eq!(rules(&both), [2, 4, 3], "narrow before wide, block before allow");
    let later = BootTime(NOW.0 + 179 * SECOND);
    let same = learn(&mut resolved, later, "mail.example.org");
    assert_eq!(rules(&same), [2, 4, 3]);
    assert_eq!(same.expires, expiry(later, 60));
    let last = BootTime(NOW.0 + 180 * SECOND);
    assert_eq!(rules(&learn(&mut resolved, last, "mail.example.org")), [4], "the other one has expired");
}

#[test]
fn a_restriction_of_an_alias_holds_for_the_name() {
    let mut resolved = Resolved::default();
    let asked = origin("a.example.com", &["mail.example.org"], true);
    let permits = resolved.learn(&three(), NOW, &asked, &[(address(1), 9)]).unwrap();
    assert_eq!(rules(&permits[0].1), [4, 2, 1]);
}

#[test]
fn another_policy_is_applied_to_what_is_known() {
    let mut resolved = Resolved::default();
    for (at, name) in [(0, "a.example.com"), (1, "example.net")] {
        resolved.learn(&three(), NOW, &origin(name, &[], true), &[(address(at), 60)]).unwrap();
    }
    let other =
        policy(vec![host("example.net", vec![(Ports::ANY, connect(7, PolicyAction::Allow))])], Vec::new());
    let again = resolved.judge_again(&other, NOW);
    assert_eq!(again.len(), 1);
    assert_eq!((again[0].0, rules(&again[0].1)), (address(1), vec![7]));
    assert_eq!(resolved.judge_again(&other, BootTime(u64::MAX)), []);
    for (address, permit) in again {
        assert_eq!(resolved.judge_one(&other, NOW, address), Some(permit));
    }
    assert_eq!(resolved.judge_one(&other, NOW, address(9)), None);
}

#[test]
fn a_full_table_is_an_error_only_where_it_matters() {
    let mut resolved = Resolved::default();
    let all = |network: u32| -> Vec<(IpAddr, u32)> {
        (network..).take(ADDRESSES).map(|bits| (Ipv4Addr::from_bits(bits).into(), 60)).collect()
    };
    resolved.learn(&three(), NOW, &origin("a.example.com", &[], true), &all(0x0a00_0000)).unwrap();
    assert_eq!(
        resolved.learn(&three(), NOW, &origin("b.example.com", &[], true), &all(0x0b00_0000)),
        Err(Full)
    );
    assert_eq!(
        resolved.learn(&three(), NOW, &origin("silent.net", &[], true), &all(0x0b00_0000)),
        Ok(Vec::new())
    );
    assert_eq!(resolved.expired(BootTime(NOW.0 + 100 * SECOND)), Vec::<IpAddr>::new());
    let later = BootTime(NOW.0 + 3600 * SECOND);
    assert_eq!(resolved.expired(later).len(), ADDRESSES);
    assert!(resolved.learn(&three(), later, &origin("b.example.com", &[], true), &all(0x0b00_0000)).is_ok());
}

#[test]
fn what_does_not_fit_is_never_a_block_that_is_lost() {
    let many: Vec<_> =
        (0..12).map(|at| (Ports { first: at, last: at }, connect(at, PolicyAction::Allow))).collect();
    let mut entries = many.clone();
    entries.push((Ports { first: 99, last: 99 }, connect(99, PolicyAction::Block)));
    let fitted = fitted(entries);
    assert_eq!(fitted.len(), ENTRIES);
    assert_eq!(fitted[..7], many[..7]);
    assert_eq!(fitted[7], (Ports::ANY, connect(99, PolicyAction::Block)));
}

proptest! {
    #[test]
    fn whatever_is_learned_fits_and_expires(asked in prop::collection::vec((0..4_usize, 0..4_u8, any::<u32>(), any::<bool>(), 0..300_u64), 0..40)) {
        let names = three();
        let mut resolved = Resolved::default();
        let mut now = NOW;
        for (name, last, ttl, trusted, seconds) in asked {
            now = BootTime(now.0 + seconds * SECOND);
            let name = ["a.example.com", "b.example.com", "mail.example.org", "x.net"][name];
            for (_, permit) in resolved.learn(&names, now, &origin(name, &[], trusted), &[(address(last), ttl)]).unwrap() {
                prop_assert!(!permit.entries.is_empty() && permit.entries.len() <= ENTRIES);
                prop_assert!(permit.expires > now && permit.expires <= expiry(now, u32::MAX));
            }
        }
    }
}
