//! Windows: what its registry tells.
//!
//! Each hive is looked at by itself ([`Description`]), so that no more than one of them has to be
//! in memory.

mod accounts;
mod network;
mod registry;
mod services;
mod sid;
mod software;
mod system;
mod volume;

use vdisk_hive::Hive;

use crate::inventory::{Family, System, Windows};
use crate::notes::Notes;

pub use sid::Sid;
pub(crate) use volume::inspect;

/// What is known of a Windows, hive by hive. Damage of a hive is noted, and the rest told.
///
/// ```
/// use vdisk_guest::windows::Description;
/// use vdisk_hive::Hive;
///
/// /// What is told from a SYSTEM hive alone.
/// fn name_of(system: &Hive) -> Option<String> {
///     let mut description = Description::default();
///     description.add_system(system);
///     let (system, problems) = description.finish();
///     for problem in problems {
///         eprintln!("{problem}");
///     }
///     system.hostname
/// }
/// ```
#[derive(Debug)]
pub struct Description {
    system: System,
    windows: Windows,
    /// The machine's SID by SAM and by SECURITY, which must agree.
    sids: [Option<Sid>; 2],
    notes: Notes,
}

impl Default for Description {
    fn default() -> Self {
        Self {
            system: System::new(Family::Windows),
            windows: Windows::default(),
            sids: [None; 2],
            notes: Notes::default(),
        }
    }
}

impl Description {
    /// `SYSTEM`: name, time zone, drivers, network, role.
    pub fn add_system(&mut self, hive: &Hive) {
        system::read(hive, &mut self.system, &mut self.windows, &self.notes);
    }

    /// `SOFTWARE`: product, version, edition.
    pub fn add_software(&mut self, hive: &Hive) {
        software::read(hive, &mut self.system, &mut self.windows, &self.notes);
    }

    /// `SAM`: the machine's SID.
    pub fn add_sam(&mut self, hive: &Hive) {
        self.sids[0] = accounts::machine_sid(hive, &self.notes);
    }

    /// `SECURITY`: the domain, and the machine's SID again.
    pub fn add_security(&mut self, hive: &Hive) {
        self.sids[1] = accounts::machine_sid_of_policy(hive, &self.notes);
        self.windows.domain = accounts::domain(hive, &self.notes);
    }

    /// All that was found, and what was wrong on the way.
    #[must_use]
    pub fn finish(mut self) -> (System, Vec<String>) {
        if let [Some(sam), Some(policy)] = self.sids
            && sam != policy
        {
            self.notes.add(format!(
                "SAM gives the machine SID as {sam}, SECURITY as {policy}: the hives are not of \
                 one machine or one moment"
            ));
        }
        let sid = self.sids.into_iter().flatten().next();
        self.system.identity.machine_sid = sid.map(|sid| sid.to_string());
        self.system.windows = Some(self.windows);
        (self.system, self.notes.into_list())
    }
}
