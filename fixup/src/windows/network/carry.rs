//! Fixed settings of an old card, for the new one.
//!
//! The new card's GUID is not known before Windows has made it, so its settings wait for the first
//! start ([`firstboot`]).

use std::fmt::Display;
use std::net::Ipv4Addr;

use vdisk_core::Result;

use super::super::guest::Guest;
use super::super::{Hives, Reason, firstboot};
use super::settings::Settings;
use super::{Found, category};
use crate::{Identity, KeepNetwork, Machine, Plan, StripOptions};

const ID: &str = "windows.network.keep";
const SCRIPT: &str = include_str!("../firstboot/network.ps1");

/// The card whose settings are asked for. Where that cannot be told, the plan is refused.
pub(super) fn choose<'a>(
    found: &'a [Found],
    options: &StripOptions,
    plan: &mut Plan,
) -> Option<&'a Found> {
    let cards: Vec<&Found> = found.iter().filter(|one| one.is_fixed_card()).collect();
    let chosen = match options.keep_network {
        KeepNetwork::No => return None,
        KeepNetwork::Of(address) => cards.iter().find(|card| card.settings.has(address)).copied(),
        KeepNetwork::Only if cards.is_empty() => return None,
        KeepNetwork::Only => the_only_one(&cards),
    };
    let Some(chosen) = chosen else {
        let known = cards.iter().flat_map(|card| card.settings.addresses.iter());
        let known: Vec<String> = known.map(|(address, _)| address.to_string()).collect();
        match (options.keep_network, known.is_empty()) {
            (KeepNetwork::Of(_), true) => return None,
            (KeepNetwork::Of(address), false) => plan.stop(
                ID,
                format!("no network card has the fixed address {address}"),
                format!("there are: {}", known.join(", ")),
            ),
            _ => plan.stop(
                ID,
                format!(
                    "{} network cards have fixed settings, and not exactly one of them a gateway",
                    cards.len()
                ),
                format!("say whose by an address: --keep-network=ADDRESS, of {}", known.join(", ")),
            ),
        }
        return None;
    };
    if options.identity == Identity::Sysprep {
        plan.stop(
            ID,
            "sysprep takes network settings away again",
            "leave --keep-network out, and set them in an answer file or after it",
        );
    }
    if !chosen.settings.odd.is_empty() {
        plan.stop(
            ID,
            format!(
                "what {} has in {} is not what should stand there",
                chosen.name(),
                chosen.settings.odd.join(", ")
            ),
            "leave --keep-network out, and set the new card by hand",
        );
    }
    plan.refusals.is_empty().then_some(chosen)
}

/// The only card, or the only one with a gateway.
fn the_only_one<'a>(cards: &[&'a Found]) -> Option<&'a Found> {
    if let [only] = cards {
        return Some(only);
    }
    let mut with = cards.iter().filter(|card| !card.settings.gateways.is_empty());
    with.next().copied().filter(|_| with.next().is_none())
}

/// Puts what gives the new card these settings into the guest, or says why that cannot be.
pub(super) fn install(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    from: &Found,
    plan: &mut Plan,
) -> Result<()> {
    if let Some(why) = firstboot::hindrance(machine, guest)? {
        plan.warn(
            ID,
            format!(
                "the new card does not get the settings of {}, for {why}: {}",
                from.name(),
                from.settings.show()
            ),
            "set them by hand after the first start",
        );
        return Ok(());
    }
    let private = match &from.adapter {
        Some(adapter) => category::was_private(hives.config(machine, "SOFTWARE")?, adapter)?,
        None => false,
    };
    let why = format!("the new card gets what {} had: {}", from.name(), from.settings.show());
    let reason = Reason { id: ID, what: "set the new network card at the first start", why: &why };
    firstboot::install(machine, hives, guest, reason, &script(&from.settings, private), plan)
}

/// The part of the script that sets the card. All that goes into it is addresses, numbers, and
/// a name of letters that mean nothing in a quoted text.
fn script(settings: &Settings, private: bool) -> String {
    let (addresses, masks): (Vec<_>, Vec<_>) = settings.addresses.iter().copied().unzip();
    let (gateways, metrics): (Vec<_>, Vec<_>) = settings.gateways.iter().copied().unzip();
    let metrics = if metrics.contains(&0) { Vec::new() } else { metrics };
    let head = [
        ("addresses", list(&addresses)),
        ("masks", list(&masks)),
        ("gateways", list(&gateways)),
        ("metrics", list(&metrics)),
        ("servers", list(&settings.servers)),
        ("suffix", quoted(settings.suffix.as_deref().unwrap_or_default())),
        ("wins", list(&settings.wins)),
        ("netbios", settings.netbios.to_string()),
        ("private", format!("${private}")),
    ];
    let head = head.map(|(name, value)| format!("${name} = {value}\n")).concat();
    head + SCRIPT
}

fn list<T: Display>(all: &[T]) -> String {
    let all: Vec<String> = all.iter().map(|one| quoted(&one.to_string())).collect();
    format!("@({})", all.join(", "))
}

/// As a text in which nothing but its end means anything. PowerShell takes typographic quotes for
/// an end too.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for letter in text.chars() {
        if matches!(letter, '\'' | '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}') {
            quoted.push(letter);
        }
        quoted.push(letter);
    }
    quoted + "'"
}

impl Settings {
    fn has(&self, address: Ipv4Addr) -> bool {
        self.addresses.iter().any(|(own, _)| *own == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_literals() {
        let address = Ipv4Addr::new(10, 3, 58, 5);
        let settings = Settings {
            addresses: vec![(address, Ipv4Addr::new(255, 255, 255, 0))],
            gateways: vec![(Ipv4Addr::new(10, 3, 58, 1), 5)],
            suffix: Some("shieldbase.local".into()),
            netbios: 2,
            ..Settings::default()
        };
        let text = script(&settings, true);
        for line in [
            "$addresses = @('10.3.58.5')\n",
            "$masks = @('255.255.255.0')\n",
            "$metrics = @('5')\n",
            "$servers = @()\n",
            "$suffix = 'shieldbase.local'\n",
            "$netbios = 2\n",
            "$private = $true\n",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert_eq!(quoted("a'b\u{2019}"), "'a''b\u{2019}\u{2019}'");
    }
}
