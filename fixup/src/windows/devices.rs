//! Devices that Windows remembers, and taking one away with all that belongs to it alone.

use vdisk_core::Result;

use super::{Reason, Registry};
use crate::Plan;

/// A device that a control set knows, whether it is there or not.
#[derive(Clone, Debug)]
pub(super) struct Device {
    /// What it hangs on, such as `PCI`.
    pub(super) bus: String,
    /// Which model it is.
    pub(super) model: String,
    /// Which one of that model.
    pub(super) instance: String,
    /// Its key below `Control\Class`, such as `{4d36e972-…}\0007`.
    pub(super) driver: Option<String>,
    /// The service that drives it.
    pub(super) service: Option<String>,
}

impl Device {
    /// Its name in Windows: bus, model and instance between backslashes.
    pub(super) fn path(&self) -> String {
        format!("{}\\{}\\{}", self.bus, self.model, self.instance)
    }

    /// Whether it hangs on one of `buses`.
    pub(super) fn is_on(&self, buses: &[&str]) -> bool {
        buses.iter().any(|bus| bus.eq_ignore_ascii_case(&self.bus))
    }

    fn has_driver(&self, driver: &str) -> bool {
        self.driver.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(driver))
    }
}

/// All devices of a control set.
///
/// # Errors
/// Damage of the hive.
pub(super) fn list(system: &Registry, set: &str) -> Result<Vec<Device>> {
    let mut found = Vec::new();
    let Some(root) = system.key(&format!("{set}\\Enum"))? else { return Ok(found) };
    for bus in root.subkeys()? {
        let bus = bus?;
        for model in bus.subkeys()? {
            let model = model?;
            for instance in model.subkeys()? {
                let instance = instance?;
                let text =
                    |name: &str| instance.value(name)?.map_or(Ok(None), |value| value.as_string());
                let device = Device {
                    bus: bus.name().to_string(),
                    model: model.name().to_string(),
                    instance: instance.name().to_string(),
                    driver: text("Driver")?,
                    service: text("Service")?,
                };
                if [&device.bus, &device.model, &device.instance].iter().all(|one| is_name(one)) {
                    found.push(device);
                }
            }
        }
    }
    Ok(found)
}

/// Takes a device away with what is its alone: its interfaces, its place in containers, the key of
/// its driver. Where Windows finds the device again, it makes all of that anew.
///
/// # Errors
/// As [`Registry::delete_key`].
pub(super) fn remove(
    system: &mut Registry,
    set: &str,
    device: &Device,
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    for path in interfaces(system, set, device)? {
        system.delete_key(plan, reason, &path)?;
    }
    leave_containers(system, set, device, reason, plan)?;
    if let Some(driver) = &device.driver {
        let shared = list(system, set)?.iter().filter(|one| one.has_driver(driver)).count() > 1;
        if !shared && is_class_key(driver) {
            system.delete_key(plan, reason, &format!("{set}\\Control\\Class\\{driver}"))?;
        }
    }
    system.delete_key(plan, reason, &format!("{set}\\Enum\\{}", device.path()))?;
    let model = format!("{set}\\Enum\\{}\\{}", device.bus, device.model);
    if system.key(&model)?.is_some_and(|key| key.subkey_count() == 0) {
        system.delete_key(plan, reason, &model)?;
    }
    Ok(())
}

/// Whether a key of that name is found again by a path.
fn is_name(name: &str) -> bool {
    !name.is_empty() && !name.contains('\\')
}

/// A class and a number: nothing else may be deleted for what a device says of its driver.
fn is_class_key(driver: &str) -> bool {
    driver.split_once('\\').is_some_and(|(class, number)| {
        class.starts_with('{')
            && class.ends_with('}')
            && number.len() == 4
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}

/// The keys of the interfaces that a device offers to programs.
fn interfaces(system: &Registry, set: &str, device: &Device) -> Result<Vec<String>> {
    let root = format!("{set}\\Control\\DeviceClasses");
    let start = format!("##?#{}#", device.path().replace('\\', "#"));
    let mut found = Vec::new();
    let Some(classes) = system.key(&root)? else { return Ok(found) };
    for class in classes.subkeys()? {
        let class = class?;
        for key in class.subkeys()? {
            let name = key?.name().to_string();
            if starts_with(&name, &start) {
                found.push(format!("{root}\\{}\\{name}", class.name()));
            }
        }
    }
    Ok(found)
}

/// Whether a name begins so, whatever the case.
pub(super) fn starts_with(name: &str, start: &str) -> bool {
    name.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start))
}

/// Takes a device out of the containers, which hold what is in one housing. One that held nothing
/// else goes.
fn leave_containers(
    system: &mut Registry,
    set: &str,
    device: &Device,
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    let root = format!("{set}\\Control\\DeviceContainers");
    let path = device.path();
    for container in system.children(&root)? {
        let container = format!("{root}\\{container}");
        let bases = format!("{container}\\BaseContainers");
        let (mut own, mut others) = (Vec::new(), false);
        for base in system.children(&bases)? {
            let base = format!("{bases}\\{base}");
            for name in system.value_names(&base)? {
                if name.eq_ignore_ascii_case(&path) {
                    own.push((base.clone(), name));
                } else {
                    others = true;
                }
            }
        }
        if !own.is_empty() && !others {
            system.delete_key(plan, reason, &container)?;
            continue;
        }
        for (base, name) in own {
            system.delete_value(plan, reason, &base, &name)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_of_drivers_are_deleted() {
        assert!(is_class_key("{4d36e972-e325-11ce-bfc1-08002be10318}\\0007"));
        for bad in ["", "{x}", "{x}\\..", "{x}\\00071", "x\\0007", "{x}\\0007\\y", "{x}\\"] {
            assert!(!is_class_key(bad), "{bad}");
        }
    }
}
