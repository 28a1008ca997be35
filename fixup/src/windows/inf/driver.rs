//! What an INF file says of its driver.

use super::os::Rank;
use super::registry::number;
use super::{AddReg, Inf, MOST_NAMED, Os};

/// Files that one package may have, at most.
const MOST_FILES: usize = 1024;
/// Models that are looked at, at most.
const MOST_MODELS: usize = 4096;

/// What stands in `[Version]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Who made it.
    pub provider: Option<String>,
    /// The class of its devices, such as `SCSIAdapter`.
    pub class: Option<String>,
    /// The class as a GUID in braces.
    pub class_guid: Option<String>,
    /// The file with the signature, for this Windows.
    pub catalog: Option<String>,
    /// `DriverVer`: year, month, day.
    pub date: Option<(u16, u8, u8)>,
    /// `DriverVer`: the version's four numbers.
    pub version: Option<[u16; 4]>,
}

/// A device that is driven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Model {
    /// As users see it.
    pub description: String,
    /// Who made it.
    pub manufacturer: String,
    /// The section that tells what to install, as the line names it.
    pub section: String,
    /// Hardware ids, the best first, then compatible ones.
    pub ids: Vec<String>,
}

/// What is installed for a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Install {
    /// The section that was taken, with its ending.
    pub section: String,
    /// Services to add; the first that is marked so drives the device.
    pub services: Vec<Service>,
    /// Files to copy, by their names at their places.
    pub files: Vec<String>,
    /// Values for the key of the device's hardware.
    pub hardware: Vec<AddReg>,
}

/// A service to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// It drives the device.
    pub drives: bool,
    /// `ServiceType`.
    pub kind: u32,
    /// `ErrorControl`.
    pub error_control: u32,
    /// `ServiceBinary`'s file name.
    pub binary: String,
    /// `LoadOrderGroup`.
    pub group: Option<String>,
    /// `DisplayName`.
    pub display_name: Option<String>,
    /// Values below its key.
    pub registry: Vec<AddReg>,
}

impl Inf {
    /// What stands in `[Version]`.
    #[must_use]
    pub fn header(&self, os: Os) -> Header {
        let value = |key: &str| self.value("version", key);
        let endings = [format!(".NT{}", os.arch.name()), ".NT".to_owned(), String::new()];
        let catalog = endings.iter().find_map(|ending| value(&format!("CatalogFile{ending}")));
        let driver = self.fields("version", "DriverVer").into_iter().next().unwrap_or_default();
        let mut driver = driver.iter();
        Header {
            provider: value("Provider"),
            class: value("Class"),
            class_guid: value("ClassGUID"),
            catalog,
            date: driver.next().and_then(|text| date(text)),
            version: driver.next().map(|text| version(text)),
        }
    }

    /// The devices that it drives on this Windows, and how well the section fits that says so.
    #[must_use]
    pub fn models(&self, os: Os) -> Option<(Fit, Vec<Model>)> {
        let mut found: Option<(Rank, Vec<Model>)> = None;
        for line in self.lines("manufacturer").into_iter().take(MOST_NAMED) {
            let mut fields = line.fields.into_iter();
            let Some(base) = fields.next().filter(|base| !base.is_empty()) else { continue };
            let endings: Vec<String> = fields.filter(|ending| !ending.is_empty()).collect();
            let ranked = endings
                .iter()
                .filter_map(|ending| Some((os.rank(ending)?, format!("{base}.{}", ending.trim()))));
            // A plain section is for 32 bits, where others are named for other processors.
            let plain = (os.arch == super::super::Arch::X86 || endings.is_empty())
                .then(|| Some((os.rank("")?, base.clone())))
                .flatten();
            let Some((rank, section)) = ranked.chain(plain).max_by_key(|(rank, _)| *rank) else {
                continue;
            };
            let manufacturer = line.key.unwrap_or_default();
            let models = self.lines(&section).into_iter().filter_map(|line| {
                let mut fields = line.fields.into_iter().filter(|field| !field.is_empty());
                let section = fields.next()?;
                let (description, manufacturer) = (line.key?, manufacturer.clone());
                Some(Model { description, manufacturer, section, ids: fields.collect() })
            });
            let models: Vec<Model> = models.filter(|model| !model.ids.is_empty()).collect();
            if models.is_empty() {
                continue;
            }
            let (best, all) = found.get_or_insert((rank, Vec::new()));
            *best = rank.max(*best);
            all.extend(models);
            all.truncate(MOST_MODELS);
        }
        found.map(|(rank, models)| (Fit(rank), models))
    }

    /// What is installed for a model with that section; none where there is no such section.
    #[must_use]
    pub fn install(&self, section: &str, os: Os) -> Option<Install> {
        let section = self.decorated(section, "", os)?;
        let services = self.decorated(&section, ".Services", os);
        let hardware = self.decorated(&section, ".HW", os);
        Some(Install {
            services: services.map(|name| self.services(&name)).unwrap_or_default(),
            files: self.copied(&section),
            hardware: hardware.map(|name| self.add_reg(&name)).unwrap_or_default(),
            section,
        })
    }

    /// All files that the package brings, but for the INF itself and the catalog.
    #[must_use]
    pub fn source_files(&self, os: Os) -> Vec<(String, String)> {
        let sections = ["SourceDisksFiles".into(), format!("SourceDisksFiles.{}", os.arch.name())];
        let mut files: Vec<(String, String)> = Vec::new();
        for line in sections.iter().flat_map(|section| self.lines(section)) {
            let Some(name) = line.key.filter(|name| is_plain(name)) else { continue };
            let folder = line.fields.get(1).cloned().unwrap_or_default();
            files.retain(|(there, _)| !there.eq_ignore_ascii_case(&name));
            files.push((name, folder));
            if files.len() >= MOST_FILES {
                break;
            }
        }
        files
    }

    /// The section of that name with the ending that fits best, and `more` behind it.
    fn decorated(&self, section: &str, more: &str, os: Os) -> Option<String> {
        let (wanted, more) = (section.to_lowercase(), more.to_lowercase());
        let fits = self.sections.keys().filter_map(|name| {
            let rest = name.strip_prefix(&wanted)?.strip_suffix(&more)?;
            let ending = if rest.is_empty() { "" } else { rest.strip_prefix('.')? };
            Some((os.rank(ending)?, rest))
        });
        let (_, rest) = fits.max_by_key(|(rank, _)| *rank)?;
        let name = format!("{section}{rest}{more}");
        self.has(&name).then_some(name)
    }

    fn services(&self, section: &str) -> Vec<Service> {
        let lines = self.fields(section, "AddService").into_iter().take(MOST_NAMED);
        lines
            .filter_map(|fields| {
                let [name, flags, section, ..] = fields.as_slice() else { return None };
                let path = self.value(section, "ServiceBinary")?;
                let binary = path.rsplit(['\\', '/']).next().filter(|name| is_plain(name))?;
                let value = |key: &str| self.value(section, key);
                Some(Service {
                    name: Some(name.clone()).filter(|name| is_plain(name))?,
                    drives: number(flags).unwrap_or_default() & 2 != 0,
                    kind: value("ServiceType").and_then(|text| number(&text))?,
                    error_control: value("ErrorControl").and_then(|text| number(&text))?,
                    binary: binary.to_owned(),
                    group: value("LoadOrderGroup"),
                    display_name: value("DisplayName"),
                    registry: self.add_reg(section),
                })
            })
            .collect()
    }

    /// `CopyFiles`: names of sections with files, or of files behind `@`.
    fn copied(&self, section: &str) -> Vec<String> {
        let mut files = Vec::new();
        for name in self.fields(section, "CopyFiles").into_iter().flatten().take(MOST_NAMED) {
            match name.strip_prefix('@') {
                Some(file) => files.push(file.to_owned()),
                None => {
                    let lines = self.lines(&name).into_iter();
                    files.extend(lines.filter_map(|line| line.fields.into_iter().next()));
                }
            }
        }
        files.retain(|name| is_plain(name));
        files.truncate(MOST_FILES);
        files
    }
}

/// How well the sections of an INF file fit a Windows: the greater the better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fit(Rank);

/// A name and no path.
fn is_plain(name: &str) -> bool {
    let wrong = |c: char| c.is_control() || "\\/:*?\"<>|%".contains(c);
    !name.is_empty() && name.len() < 200 && name != "." && name != ".." && !name.contains(wrong)
}

/// `MM/DD/YYYY`, also with dashes.
fn date(text: &str) -> Option<(u16, u8, u8)> {
    let mut parts = text.trim().split(['/', '-']);
    let (month, day) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
    let year = parts.next()?.parse().ok()?;
    ((1..=12).contains(&month) && (1..=31).contains(&day) && (1980..=2200).contains(&year))
        .then_some((year, month, day))
}

fn version(text: &str) -> [u16; 4] {
    let mut numbers = [0; 4];
    for (place, part) in numbers.iter_mut().zip(text.split('.')) {
        *place = part.trim().parse().unwrap_or_default();
    }
    numbers
}
