//! Taking from an adapter that stays what would stand in its successor's way.

use vdisk_core::Result;

use super::super::{Data, Reason, Registry};
use super::adapter::{Adapter, NET};
use super::{nsi, settings};
use crate::Plan;

/// What is put behind the name of a connection, so that the new one can have it.
const OLD: &str = " (old machine)";
/// Values of fixed addresses.
const FIXED: [&str; 4] = ["IPAddress", "SubnetMask", "DefaultGateway", "DefaultGatewayMetric"];
/// Texts that are empty where nothing is set by hand.
const TEXTS: [&str; 2] = ["NameServer", "Domain"];

/// Has the adapter ask a DHCP server, and gives its name free.
pub(super) fn settle(
    system: &mut Registry,
    set: &str,
    adapter: &Adapter,
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    let guid = &adapter.guid;
    for path in [
        format!("{}\\{guid}", settings::interfaces(set)),
        format!("{set}\\Services\\{guid}\\Parameters\\Tcpip"),
    ] {
        if system.number(&path, "EnableDHCP")? == Some(0) {
            system.set(plan, reason, &path, "EnableDHCP", &Data::Dword(1))?;
            for name in FIXED {
                system.delete_value(plan, reason, &path, name)?;
            }
        }
        for name in TEXTS {
            if system.text(&path, name)?.is_some_and(|text| !text.is_empty()) {
                system.set(plan, reason, &path, name, &Data::Sz(String::new()))?;
            }
        }
    }
    let netbios = settings::netbios(set, guid);
    if system.texts(&netbios, settings::WINS)?.iter().any(|one| !one.is_empty()) {
        system.set(plan, reason, &netbios, settings::WINS, &Data::MultiSz(Vec::new()))?;
    }
    if let Some(luid) = &adapter.luid {
        let rows = nsi::rows(system, set, luid)?;
        for (path, row) in rows.into_iter().filter(|(_, row)| nsi::is_address(row)) {
            system.delete_value(plan, reason, &path, &row)?;
        }
    }
    let connection = format!("{set}\\Control\\Network\\{NET}\\{guid}\\Connection");
    match system.text(&connection, "Name")? {
        Some(name) if !name.is_empty() && !name.ends_with(OLD) => {
            let name = Data::Sz(format!("{name}{OLD}"));
            system.set(plan, reason, &connection, "Name", &name).map(drop)
        }
        _ => Ok(()),
    }
}
