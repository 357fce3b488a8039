//! The address policy: where a request must never go.
//!
//! Whoever registers an endpoint chooses where we connect to, from inside of our network. So only addresses of the public internet are
//! connected to; everything else is refused by a named rule unless the operator lists its network in `delivery.allow_networks`.
//!
//! A check of the URL alone would not do: a name can resolve to anything, and to something else a second later. Therefore the sender
//! checks every resolved address, and literals alike, and connects to the very address that was checked. [`Policy::check_url`] is for
//! registration: it gives an early and clear answer, not the protection.
//!
//! Addresses that carry another one inside (IPv4-mapped, NAT64, 6to4) are judged by both. Facts: the IANA special-purpose address
//! registries (RFC 6890 and its updates) and the metadata addresses that cloud providers document.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::model::{EndpointUrl, FieldError};

/// What may be connected to.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    allow: Vec<IpNet>,
}

/// An address that the policy refuses, the rule that does so, and the network the rule is about.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{address} is refused by the rule `{rule}` ({network}); to deliver there all the same, list its network in `delivery.allow_networks`"
)]
pub struct Refused {
    pub address: String,
    pub rule: &'static str,
    pub network: IpNet,
}

const IN_CLEAR: &str =
    "would carry the client's secret in clear: write https, or list the network of its host in `delivery.allow_networks`";

/// The rules for IPv4; the first network that holds the address gives the rule.
const V4: &[(&str, [u8; 4], u8)] = &[
    ("metadata", [169, 254, 169, 254], 32),
    ("metadata", [169, 254, 170, 2], 32),
    ("metadata", [100, 100, 100, 200], 32),
    ("metadata", [168, 63, 129, 16], 32),
    ("metadata", [192, 0, 0, 192], 32),
    ("this_network", [0, 0, 0, 0], 8),
    ("private", [10, 0, 0, 0], 8),
    ("carrier_nat", [100, 64, 0, 0], 10),
    ("loopback", [127, 0, 0, 0], 8),
    ("link_local", [169, 254, 0, 0], 16),
    ("private", [172, 16, 0, 0], 12),
    ("protocol_assignments", [192, 0, 0, 0], 24),
    ("documentation", [192, 0, 2, 0], 24),
    ("6to4", [192, 88, 99, 0], 24),
    ("private", [192, 168, 0, 0], 16),
    ("benchmarking", [198, 18, 0, 0], 15),
    ("documentation", [198, 51, 100, 0], 24),
    ("documentation", [203, 0, 113, 0], 24),
    ("multicast", [224, 0, 0, 0], 4),
    ("reserved", [240, 0, 0, 0], 4),
];

/// The rules for IPv6, alike. What lies outside of 2000::/3 is no global unicast address and refused as `reserved` in any case.
const V6: &[(&str, [u16; 8], u8)] = &[
    ("metadata", [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254], 128),
    ("metadata", [0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254], 128),
    ("unspecified", [0, 0, 0, 0, 0, 0, 0, 0], 128),
    ("loopback", [0, 0, 0, 0, 0, 0, 0, 1], 128),
    ("ipv4_compatible", [0, 0, 0, 0, 0, 0, 0, 0], 96),
    ("nat64", [0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96),
    ("nat64", [0x64, 0xff9b, 1, 0, 0, 0, 0, 0], 48),
    ("discard", [0x100, 0, 0, 0, 0, 0, 0, 0], 64),
    ("teredo", [0x2001, 0, 0, 0, 0, 0, 0, 0], 32),
    ("protocol_assignments", [0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    ("documentation", [0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    ("6to4", [0x2002, 0, 0, 0, 0, 0, 0, 0], 16),
    ("documentation", [0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
    ("segment_routing", [0x5f00, 0, 0, 0, 0, 0, 0, 0], 16),
    ("unique_local", [0xfc00, 0, 0, 0, 0, 0, 0, 0], 7),
    ("link_local", [0xfe80, 0, 0, 0, 0, 0, 0, 0], 10),
    ("site_local", [0xfec0, 0, 0, 0, 0, 0, 0, 0], 10),
    ("multicast", [0xff00, 0, 0, 0, 0, 0, 0, 0], 8),
];

impl Policy {
    /// Nothing is refused.
    pub fn anywhere() -> Policy {
        Policy::new(vec![Ipv4Net::default().into(), Ipv6Net::default().into()])
    }

    /// `allow`: networks that may be connected to although a rule refuses them (`delivery.allow_networks`).
    pub fn new(allow: Vec<IpNet>) -> Policy {
        Policy { allow }
    }

    /// Whether `address` may be connected to.
    pub fn check(&self, address: IpAddr) -> Result<(), Refused> {
        let refused = |(rule, network)| Refused { address: address.to_string(), rule, network };
        // `::ffff:10.0.0.1` is a spelling of 10.0.0.1: the same packets leave the machine.
        let canonical = address.to_canonical();
        if !self.allows(canonical)
            && let Some(found) = rule_for(canonical)
        {
            return Err(refused(found));
        }
        // An allowed translation network must not open the private addresses behind it.
        match embedded(canonical) {
            Some(inner) if !self.allows(inner.into()) => rule_for(inner.into()).map_or(Ok(()), |found| Err(refused(found))),
            _ => Ok(()),
        }
    }

    /// What can be said of a URL before anything is resolved: literals, and the names that are this machine by definition (RFC 6761).
    /// For a clear error at registration; [`Policy::check`] judges again what the name resolves to, at each connection.
    pub fn check_url(&self, url: &EndpointUrl) -> Result<(), Refused> {
        match url.parts().host() {
            Some(url::Host::Ipv4(address)) => self.check(address.into()),
            Some(url::Host::Ipv6(address)) => self.check(address.into()),
            Some(url::Host::Domain(name)) if is_localhost(name) => {
                let (v4, v6) = (self.check(Ipv4Addr::LOCALHOST.into()), self.check(Ipv6Addr::LOCALHOST.into()));
                v4.or_else(|refused| v6.map_err(|_| Refused { address: name.to_owned(), ..refused }))
            }
            Some(url::Host::Domain(_)) | None => Ok(()),
        }
    }

    /// Whether an access token, and the secret it is got with, may travel in clear to `address`: only within networks that the operator has
    /// listed. Elsewhere it is https or nothing, as the product asks for whose endpoints have tokens (WIRE.md 1.4).
    pub fn check_clear(&self, address: IpAddr) -> Result<(), &'static str> {
        if self.allows(address.to_canonical()) { Ok(()) } else { Err(IN_CLEAR) }
    }

    /// As [`Policy::check_url`], of the URL that tokens come from.
    pub fn check_token_url(&self, url: &EndpointUrl) -> Result<(), String> {
        self.check_url(url).map_err(|refused| refused.to_string())?;
        let clear = match url.parts().host() {
            _ if url.is_https() => Ok(()),
            Some(url::Host::Ipv4(address)) => self.check_clear(address.into()),
            Some(url::Host::Ipv6(address)) => self.check_clear(address.into()),
            // What the name stands for is judged when it is connected to.
            Some(url::Host::Domain(_)) if !self.allow.is_empty() => Ok(()),
            Some(url::Host::Domain(_)) | None => Err(IN_CLEAR),
        };
        clear.map_err(str::to_owned)
    }

    /// Both URLs of an endpoint's document, as far as they can be judged now; what is no URL is somebody else's to tell.
    pub fn check_urls(&self, url: &str, token_url: Option<&str>) -> Vec<FieldError> {
        let receiver = EndpointUrl::parse(url).ok().and_then(|url| self.check_url(&url).err());
        let receiver = receiver.map(|refused| FieldError::new("url", refused.to_string()));
        let tokens = token_url.and_then(|url| EndpointUrl::parse(url).ok()).and_then(|url| self.check_token_url(&url).err());
        receiver.into_iter().chain(tokens.map(|refused| FieldError::new("auth.url", refused))).collect()
    }

    fn allows(&self, address: IpAddr) -> bool {
        self.allow.iter().any(|network| network.contains(&address))
    }
}

fn is_localhost(name: &str) -> bool {
    let name = name.trim_end_matches('.');
    name.eq_ignore_ascii_case("localhost") || name.len() > 10 && name[name.len() - 10..].eq_ignore_ascii_case(".localhost")
}

fn rule_for(address: IpAddr) -> Option<(&'static str, IpNet)> {
    match address {
        IpAddr::V4(address) => V4.iter().find_map(|(rule, base, prefix)| {
            let network = Ipv4Net::new_assert((*base).into(), *prefix);
            network.contains(&address).then_some((*rule, network.into()))
        }),
        IpAddr::V6(address) => V6
            .iter()
            .find_map(|(rule, base, prefix)| {
                let network = Ipv6Net::new_assert((*base).into(), *prefix);
                network.contains(&address).then_some((*rule, network.into()))
            })
            .or_else(|| {
                let global = Ipv6Net::new_assert(Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 3);
                (!global.contains(&address)).then(|| ("reserved", Ipv6Net::new_assert(Ipv6Addr::UNSPECIFIED, 0).into()))
            }),
    }
}

/// The IPv4 address that a translation would send the packets to.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let parts = address.segments();
    let join = |high: u16, low: u16| Some(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match parts {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => join(high, low),
        [0x2002, high, low, ..] => join(high, low),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Address, and the rule that refuses it; none: it may be connected to.
    const FORMS: &[(&str, Option<&str>)] = &[
        ("8.8.8.8", None),
        ("1.1.1.1", None),
        ("93.184.216.34", None),
        ("9.255.255.255", None),
        ("11.0.0.0", None),
        ("100.63.255.255", None),
        ("100.128.0.0", None),
        ("126.255.255.255", None),
        ("128.0.0.0", None),
        ("169.253.255.255", None),
        ("169.255.0.0", None),
        ("172.15.255.255", None),
        ("172.32.0.0", None),
        ("192.0.1.0", None),
        ("192.167.255.255", None),
        ("192.169.0.0", None),
        ("198.17.255.255", None),
        ("198.20.0.0", None),
        ("223.255.255.255", None),
        ("168.63.129.15", None),
        ("2606:4700::1111", None),
        ("2a00:1450:4001:800::200e", None),
        ("2001:200::1", None),
        ("2001:4860:4860::8888", None),
        ("::ffff:8.8.8.8", None),
        ("0.0.0.0", Some("this_network")),
        ("0.1.2.3", Some("this_network")),
        ("10.0.0.0", Some("private")),
        ("10.255.255.255", Some("private")),
        ("172.16.0.1", Some("private")),
        ("172.31.255.255", Some("private")),
        ("192.168.0.1", Some("private")),
        ("192.168.255.255", Some("private")),
        ("100.64.0.1", Some("carrier_nat")),
        ("100.127.255.255", Some("carrier_nat")),
        ("127.0.0.1", Some("loopback")),
        ("127.255.255.254", Some("loopback")),
        ("169.254.0.1", Some("link_local")),
        ("169.254.169.254", Some("metadata")),
        ("169.254.170.2", Some("metadata")),
        ("100.100.100.200", Some("metadata")),
        ("168.63.129.16", Some("metadata")),
        ("192.0.0.192", Some("metadata")),
        ("192.0.0.1", Some("protocol_assignments")),
        ("192.0.2.1", Some("documentation")),
        ("198.51.100.7", Some("documentation")),
        ("203.0.113.9", Some("documentation")),
        ("192.88.99.1", Some("6to4")),
        ("198.18.0.1", Some("benchmarking")),
        ("198.19.255.255", Some("benchmarking")),
        ("224.0.0.1", Some("multicast")),
        ("239.255.255.255", Some("multicast")),
        ("240.0.0.1", Some("reserved")),
        ("255.255.255.255", Some("reserved")),
        ("::", Some("unspecified")),
        ("::1", Some("loopback")),
        ("::2", Some("ipv4_compatible")),
        ("::127.0.0.1", Some("ipv4_compatible")),
        ("::ffff:127.0.0.1", Some("loopback")),
        ("::ffff:10.1.2.3", Some("private")),
        ("::ffff:169.254.169.254", Some("metadata")),
        ("::ffff:0:7f00:1", Some("reserved")),
        ("64:ff9b::8.8.8.8", Some("nat64")),
        ("64:ff9b::127.0.0.1", Some("nat64")),
        ("64:ff9b:1::1", Some("nat64")),
        ("100::1", Some("discard")),
        ("2001::1", Some("teredo")),
        ("2001:10::1", Some("protocol_assignments")),
        ("2001:20::1", Some("protocol_assignments")),
        ("2001:1ff:ffff::1", Some("protocol_assignments")),
        ("2001:db8::1", Some("documentation")),
        ("3fff:fff::1", Some("documentation")),
        ("2002:7f00:1::", Some("6to4")),
        ("2002:808:808::1", Some("6to4")),
        ("5f00::1", Some("segment_routing")),
        ("fc00::1", Some("unique_local")),
        ("fdff:ffff::1", Some("unique_local")),
        ("fd00:ec2::254", Some("metadata")),
        ("fd20:ce::254", Some("metadata")),
        ("fe80::1", Some("link_local")),
        ("febf::1", Some("link_local")),
        ("fec0::1", Some("site_local")),
        ("ff02::1", Some("multicast")),
        ("4000::1", Some("reserved")),
        ("1fff::1", Some("reserved")),
    ];

    #[test]
    fn every_form_of_an_address_meets_its_rule() {
        for (text, rule) in FORMS {
            let address = text.parse().expect(text);
            assert_eq!(Policy::default().check(address).err().map(|refused| refused.rule), *rule, "{text}");
        }
    }

    #[test]
    fn odd_spellings_in_a_url_are_the_address_they_mean() {
        for (url, rule) in [
            ("http://127.1/", Some("loopback")),
            ("http://2130706433/", Some("loopback")),
            ("http://0x7f000001/", Some("loopback")),
            ("http://0177.0.0.1/", Some("loopback")),
            ("http://0/", Some("this_network")),
            ("http://[::1]:8080/", Some("loopback")),
            ("http://[::ffff:7f00:1]/", Some("loopback")),
            ("http://[0:0:0:0:0:ffff:a9fe:a9fe]/", Some("metadata")),
            ("http://１２７.0.0.1/", Some("loopback")),
            ("http://localhost/", Some("loopback")),
            ("http://LOCALHOST./", Some("loopback")),
            ("http://a.localhost/", Some("loopback")),
            ("https://localhost.example.com/", None),
            ("https://hooks.example.com/", None),
            ("https://8.8.8.8/", None),
        ] {
            let url = EndpointUrl::parse(url).expect(url);
            assert_eq!(Policy::default().check_url(&url).err().map(|refused| refused.rule), rule, "{url}");
        }
    }

    #[test]
    fn an_allowed_network_opens_itself_and_nothing_behind_it() {
        let policy = Policy::new(["127.0.0.0/8", "64:ff9b::/96"].map(|net| net.parse().expect(net)).to_vec());
        for (text, rule) in [
            ("127.0.0.1", None),
            ("::ffff:127.0.0.1", None),
            ("::1", Some("loopback")),
            ("10.0.0.1", Some("private")),
            ("64:ff9b::8.8.8.8", None),
            ("64:ff9b::127.0.0.1", None),
            ("64:ff9b::10.0.0.1", Some("private")),
            ("64:ff9b::169.254.169.254", Some("metadata")),
        ] {
            assert_eq!(policy.check(text.parse().expect(text)).err().map(|refused| refused.rule), rule, "{text}");
        }
        let local = EndpointUrl::parse("http://localhost:9000/").expect("a URL");
        assert_eq!(policy.check_url(&local), Ok(()));
    }

    #[test]
    fn tokens_travel_in_clear_within_listed_networks_only() {
        let (strict, open) = (Policy::default(), Policy::new(vec!["127.0.0.0/8".parse().expect("a network")]));
        for (url, when_strict, when_open) in [
            ("https://idp.example.com/token", true, true),
            ("https://8.8.8.8/token", true, true),
            ("https://127.0.0.1/token", false, true),
            ("http://127.0.0.1/token", false, true),
            ("http://10.0.0.1/token", false, false),
            ("http://8.8.8.8/token", false, false),
            ("http://[2606:4700::1111]/token", false, false),
            ("http://localhost/token", false, true),
            // Judged when it is connected to.
            ("http://idp.example.com/token", false, true),
        ] {
            let url = EndpointUrl::parse(url).expect(url);
            let allowed = [&strict, &open].map(|policy| policy.check_token_url(&url).is_ok());
            assert_eq!(allowed, [when_strict, when_open], "{url}");
        }
        let wrong = strict.check_urls("http://10.0.0.1/", Some("http://8.8.8.8/"));
        assert_eq!(wrong.iter().map(|wrong| &*wrong.path).collect::<Vec<_>>(), ["url", "auth.url"]);
        assert!(wrong.iter().all(|wrong| wrong.message.contains("delivery.allow_networks")), "{wrong:?}");
    }

    #[test]
    fn a_refusal_names_the_address_the_rule_and_the_key() {
        let text = Policy::default().check("10.1.2.3".parse().expect("an address")).expect_err("private").to_string();
        for part in ["10.1.2.3", "`private`", "10.0.0.0/8", "delivery.allow_networks"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
