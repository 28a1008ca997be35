//! Network adapters of the old machine, and what was set for them.
//!
//! An adapter whose card stays behind would keep its fixed address and the name of its connection,
//! so that the new card gets a warning for the one and a number for the other. Windows 10 and later
//! keep all of an adapter in keys of its own: there it goes as a whole ([`remove`]). Before that it
//! stays, and loses its settings and its name ([`settle`]).
//!
//! | file | does |
//! | --- | --- |
//! | `adapter.rs` | which adapters there are, and which are cards |
//! | `settings.rs` | what is set for them, checked |
//! | `remove.rs`, `settle.rs`, `nsi.rs` | one goes; one stays; what the network stack notes of both |
//! | `carry.rs`, `category.rs` | settings for the new card, at the first start |

mod adapter;
mod carry;
mod category;
mod nsi;
mod remove;
mod settings;
mod settle;

use vdisk_core::Result;

use self::adapter::Adapter;
use self::settings::Settings;
use super::guest::Guest;
use super::{Hives, Reason, Registry, firstboot};
use crate::{KeepNetwork, Machine, Plan, StripOptions};

const ID: &str = "windows.network.adapter";
const FIXED: &str = "windows.network.fixed";

/// An interface of TCP/IP.
struct Found {
    guid: String,
    /// The adapter below it, where it is known still.
    adapter: Option<Adapter>,
    settings: Settings,
}

impl Found {
    fn name(&self) -> &str {
        self.adapter.as_ref().map_or(&self.guid, Adapter::name)
    }

    /// Whether it is a card with something set by hand.
    fn is_fixed_card(&self) -> bool {
        let is_card = self.adapter.as_ref().is_some_and(|adapter| adapter.card().is_some());
        is_card && self.settings.is_fixed()
    }
}

/// Takes a Windows off its network cards.
pub(super) fn strip(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let system = hives.config(machine, "SYSTEM")?;
    let sets = system.control_sets()?;
    let Some(set) = sets.first() else { return Ok(()) };
    let adapters = adapter::list(system, set)?;
    let found = interfaces(system, set, &adapters)?;
    adapter::warn_of_teams(&adapters, plan);
    let chosen = carry::choose(&found, options, plan);
    let asked = options.keep_network != KeepNetwork::No;
    if asked && chosen.is_none() && plan.refusals.is_empty() && !firstboot::waits(system, set)? {
        let message = "no network card has fixed settings that could be kept";
        plan.warn("windows.network.keep", message, "");
    }
    if let Some(from) = chosen {
        carry::install(machine, hives, guest, from, plan)?;
    }
    let is_chosen = |one: &Found| chosen.is_some_and(|chosen| chosen.guid == one.guid);
    for one in found.iter().filter(|one| one.settings.is_fixed() && !is_chosen(one)) {
        tell(one, asked, plan);
    }
    tell_of_ipv6(hives.config(machine, "SYSTEM")?, set, &adapters, plan)?;
    for set in &sets {
        leave(machine, hives, set, options, plan)?;
    }
    Ok(())
}

/// All interfaces of TCP/IP with what is set for them.
fn interfaces(system: &Registry, set: &str, adapters: &[Adapter]) -> Result<Vec<Found>> {
    let all = system.children(&settings::interfaces(set))?.into_iter();
    all.map(|guid| {
        let adapter = adapters.iter().find(|one| one.guid.eq_ignore_ascii_case(&guid)).cloned();
        let settings = Settings::read(system, set, &guid)?;
        Ok(Found { guid, adapter, settings })
    })
    .collect()
}

/// Says which fixed settings the new card does not get.
fn tell(one: &Found, asked: bool, plan: &mut Plan) {
    let hint = match (one.is_fixed_card(), asked) {
        (true, false) => {
            "the new card is another one for Windows, and asks a DHCP server: give it these \
             settings with --keep-network"
        }
        (true, true) => {
            "only one card's settings are kept: set these by hand where they are needed"
        }
        (false, _) => "they are not of a card of the machine, and stay as they are",
    };
    let message = format!("{} has fixed settings: {}", one.name(), one.settings.show());
    plan.warn(FIXED, message, hint);
}

/// Says which fixed addresses of IPv6 the new card does not get.
fn tell_of_ipv6(system: &Registry, set: &str, adapters: &[Adapter], plan: &mut Plan) -> Result<()> {
    for adapter in adapters.iter().filter(|adapter| adapter.card().is_some()) {
        let Some(luid) = &adapter.luid else { continue };
        let found = nsi::addresses6(system, set, luid)?;
        if !found.is_empty() {
            let found: Vec<String> = found.iter().map(ToString::to_string).collect();
            plan.warn(
                FIXED,
                format!("{} has fixed addresses of IPv6: {}", adapter.name(), found.join(", ")),
                "they are not kept: set them again by hand where they are needed",
            );
        }
    }
    Ok(())
}

/// Takes the adapters out of one control set, and out of SOFTWARE.
fn leave(
    machine: &mut Machine,
    hives: &mut Hives,
    set: &str,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    let system = hives.config(machine, "SYSTEM")?;
    adapter::forget_addresses(system, set, options, plan)?;
    if options.keeps(ID) {
        return Ok(());
    }
    let adapters = adapter::list(system, set)?;
    let whole = remove::can(system, set)?;
    for adapter in &adapters {
        let Some(card) = adapter.card() else { continue };
        let why = format!(
            "{} ({}) is a card on {} that stays behind, and would keep its settings and its name \
             from the new one",
            adapter.name(),
            adapter.description,
            card.bus
        );
        let system = hives.config(machine, "SYSTEM")?;
        if whole {
            let reason = Reason { id: ID, what: "take an adapter away", why: &why };
            remove::from_system(system, set, adapter, reason, plan)?;
            let software = hives.config(machine, "SOFTWARE")?;
            remove::from_software(software, adapter, reason, plan)?;
        } else {
            let reason = Reason { id: ID, what: "take an adapter's settings away", why: &why };
            settle::settle(system, set, adapter, reason, plan)?;
        }
    }
    Ok(())
}
