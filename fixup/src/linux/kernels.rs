//! Each kernel gets the modules it needs to find its disk.

use vdisk_core::{Error, ErrorKind, Result};
use vdisk_guest::fs::FileKind;
use vdisk_guest::inventory::{Kernel, System};

use super::devices::{Devices, Reader};
use super::initramfs::{Contents, Writer, addition};
use super::modules::Modules;
use super::needs::Needs;
use super::tools::{self, Made, Maker};
use super::tree::Tree;
use crate::{Action, AdaptOptions, Plan};

/// Bytes of an initramfs, of a module, of one of their indexes.
const MOST_INITRAMFS: u64 = 512 << 20;
const MOST_MODULE: u64 = 64 << 20;
/// What only the guest can do.
const WAY_OUT: &str = "start the guest on its old hardware and make a generic initramfs there \
    (Debian: MODULES=most and update-initramfs -u -k all; others: dracut --force --no-hostonly), \
    or install a kernel that has the modules";

/// Sees to every kernel's initramfs.
///
/// # Errors
/// The volume's.
pub(super) fn adapt(
    tree: &mut Tree<'_>,
    system: &System,
    devices: &Devices,
    options: &AdaptOptions,
    plan: &mut Plan,
) -> Result<()> {
    let Some(linux) = &system.linux else { return Ok(()) };
    let needs = Needs::of(options.target);
    let kernels: Vec<&Kernel> = linux.kernels.iter().filter(|one| one.image.is_some()).collect();
    if kernels.is_empty() {
        let message = "no kernel was found in /boot, so nothing is known of its modules";
        plan.warn("linux.kernel", message, "unified kernel images are not looked into");
    }
    let tools = Tools {
        maker: tools::maker(&linux.initramfs_makers),
        arch: system.arch,
        allowed: options.run_guest_tools,
    };
    allow(tree, needs, plan)?;
    for (index, kernel) in kernels.into_iter().enumerate() {
        let done = Job { tree, needs, devices, kernel, tools }.run(plan);
        let Err(error) = done else { continue };
        let message = format!("kernel {} will not start there: {error}", kernel.version);
        let hint = error.advice().unwrap_or(WAY_OUT).to_owned();
        // The newest is the one that starts.
        if index == 0 {
            plan.stop("linux.initramfs", message, hint);
        } else {
            plan.warn("linux.initramfs", message, hint);
        }
    }
    Ok(())
}

/// The guest's own programs.
#[derive(Clone, Copy)]
struct Tools {
    maker: Option<&'static Maker>,
    arch: Option<&'static str>,
    allowed: bool,
}

/// One kernel.
struct Job<'j, 't> {
    tree: &'j mut Tree<'t>,
    needs: &'static Needs,
    devices: &'j Devices,
    kernel: &'j Kernel,
    tools: Tools,
}

impl Job<'_, '_> {
    fn run(&mut self, plan: &mut Plan) -> Result<()> {
        let version = self.kernel.version.as_str();
        let Some(initramfs) = &self.kernel.initramfs else { return self.without_initramfs() };
        let path = initramfs.path.as_str();
        let bytes = self.tree.read(path, MOST_INITRAMFS)?.ok_or_else(|| missing(path))?;
        let contents = match Contents::read(&bytes) {
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                return self.by_tools(path, bytes.len(), error, plan);
            }
            contents => contents?,
        };
        // A rescue image is called otherwise than the kernel whose modules it holds.
        let version = match contents.versions().as_slice() {
            [only] if !self.kernel.modules => (*only).to_owned(),
            _ => version.to_owned(),
        };
        let modules = self.modules(&version)?;
        self.check(&modules, |name| contents.has_module(&version, name))?;
        let absent: Vec<&str> = self
            .needs
            .storage
            .iter()
            .copied()
            .filter(|name| modules.has(name) && !modules.is_built_in(name))
            .filter(|name| !contents.has_module(&version, name))
            .collect();
        if contents.text("etc/lvm/devices/system.devices").is_some() {
            plan.warn(
                "linux.lvm.devices",
                format!("{path} holds LVM's list of devices, which names the old disks"),
                "if volumes are missing at the start, add lvm.conf's use_devicesfile=0",
            );
        }
        let texts = self.texts(&contents);
        if absent.is_empty() && texts.is_empty() {
            return Ok(());
        }
        if !absent.is_empty() && contents.has("squashfs-root.img") {
            let why = Error::refused("its initramfs hides its modules in a SquashFS");
            return self.by_tools(path, bytes.len(), why, plan);
        }
        let archive = self.archive(&version, &modules, &contents, &absent, texts)?;
        let more = addition(bytes.len() as u64, &archive)?;
        self.tree.append(path, bytes.len() as u64, &more)?;
        let after = Contents::read(&self.tree.read(path, MOST_INITRAMFS)?.unwrap_or_default())?;
        if let Some(name) = absent.iter().find(|name| !after.has_module(&version, name)) {
            return Err(Error::new(
                ErrorKind::Internal,
                format!("{name} was added and is not there"),
            ));
        }
        let names = absent.join(", ");
        plan.act(
            Action::new("linux.initramfs.modules", "add an archive behind the initramfs", path)
                .why(format!("kernel {version} could not find its disk without them"))
                .before(format!("{} bytes", bytes.len()))
                .after(format!("{} bytes more, with: {names}", more.len())),
        );
        self.settings(&absent, plan)
    }

    /// Has the guest's own program make an initramfs anew, where that is allowed; `why` says what
    /// it is needed for.
    fn by_tools(&mut self, path: &str, len: usize, why: Error, plan: &mut Plan) -> Result<()> {
        let Tools { maker: Some(maker), arch, allowed } = self.tools else { return Err(why) };
        if !allowed {
            return Err(why.hint(format!(
                "add --run-guest-tools (as root) to have the guest's {} make it anew, in a \
                 sandbox; or {WAY_OUT}",
                maker.name
            )));
        }
        let version = self.kernel.version.as_str();
        let modules = self.modules(version)?;
        self.check(&modules, |_| false)?;
        let is_file = |name: &&str| modules.has(name) && !modules.is_built_in(name);
        let storage: Vec<&str> = self.needs.storage.iter().copied().filter(is_file).collect();
        self.settings(&storage, plan)?;
        let beside = self.needs.beside.iter().copied().filter(is_file);
        let wanted: Vec<&str> = storage.iter().copied().chain(beside).collect();
        let Made { bytes, said } = maker.make(self.tree, arch, version, &wanted)?;
        let contents = Contents::read(&bytes)?;
        if let Some(name) = storage.iter().find(|name| !contents.has_module(version, name)) {
            return Err(Error::refused(format!(
                "the guest's {} left {name} out of its initramfs",
                maker.name
            )));
        }
        self.tree.write(path, &bytes, 0o600)?;
        let said = if said.is_empty() { said } else { format!("; it said: {said}") };
        plan.act(
            Action::new(
                "linux.initramfs.made",
                format!("put there what the guest's {} made anew, in a sandbox", maker.name),
                path,
            )
            .why(why.to_string())
            .before(format!("{len} bytes"))
            .after(format!(
                "{} bytes, with: {}{said}",
                bytes.len(),
                storage.join(", ")
            )),
        );
        Ok(())
    }

    /// A kernel that starts by itself has all it needs in itself.
    fn without_initramfs(&mut self) -> Result<()> {
        let modules = self.modules(&self.kernel.version.clone())?;
        let inside = |group: &[&str]| group.iter().any(|name| modules.is_built_in(name));
        match self.needs.one_of.iter().find(|group| !inside(group)) {
            None => Ok(()),
            Some(group) => Err(Error::refused(format!(
                "it has no initramfs, and {} is not part of it",
                group.join(" or ")
            ))),
        }
    }

    /// Whether the kernel has what the target needs, anywhere.
    fn check(&self, modules: &Modules, in_initramfs: impl Fn(&str) -> bool) -> Result<()> {
        let there = |name: &&str| modules.has(name) || in_initramfs(name);
        match self.needs.one_of.iter().find(|group| !group.iter().any(there)) {
            None => Ok(()),
            Some(group) => Err(Error::refused(format!("it has no {}", group.join(" and no ")))),
        }
    }

    fn modules(&mut self, version: &str) -> Result<Modules> {
        let folder = format!("/lib/modules/{version}");
        let dep = self.tree.text(&format!("{folder}/modules.dep"))?.unwrap_or_default();
        let built_in = self.tree.text(&format!("{folder}/modules.builtin"))?.unwrap_or_default();
        Ok(Modules::parse(&dep, &built_in))
    }

    /// The files of the initramfs that name devices of the old hardware, as they should be.
    fn texts(&self, contents: &Contents) -> Vec<(String, Vec<u8>)> {
        let rewritten = |(path, bytes): (&str, &[u8])| {
            let old = std::str::from_utf8(bytes).ok()?;
            let starts: &[&str] = if path.ends_with("tab") {
                &[""]
            } else {
                &["root=", "resume=", "RESUME=", "ROOT=", "source="]
            };
            let (new, _) = self.devices.rewrite(old, starts, Reader::Program);
            (new != old).then(|| (path.to_owned(), new.into_bytes()))
        };
        contents.texts().filter_map(rewritten).collect()
    }

    fn archive(
        &mut self,
        version: &str,
        modules: &Modules,
        contents: &Contents,
        absent: &[&str],
        texts: Vec<(String, Vec<u8>)>,
    ) -> Result<Vec<u8>> {
        let mut files = texts;
        if !absent.is_empty() {
            let beside = self.needs.beside.iter().copied();
            let wanted = modules.closure(absent.iter().copied().chain(beside));
            let from = format!("/lib/modules/{version}");
            for path in wanted.into_iter().map(str::to_owned).chain(self.indexes(&from)?) {
                let to = contents.resolve(&format!("lib/modules/{version}/{path}"));
                let from = format!("{from}/{path}");
                let bytes = self.tree.read(&from, MOST_MODULE)?.ok_or_else(|| missing(&from))?;
                files.push((to, bytes));
            }
            let first = |name: &&str| self.needs.one_of.iter().any(|group| group.contains(name));
            let first: Vec<&str> = absent.iter().copied().filter(first).collect();
            files.extend(load_list(contents, &first));
        }
        Ok(pack(contents, &files))
    }

    /// What modprobe(8) finds modules by; those of the guest know all modules, so also ours.
    fn indexes(&mut self, folder: &str) -> Result<Vec<String>> {
        let names = self.tree.list(folder)?.into_iter();
        let is_index = |(name, kind): &(String, FileKind)| {
            *kind == FileKind::File && name.starts_with("modules.")
        };
        Ok(names.filter(is_index).map(|(name, _)| name).collect())
    }

    /// Lets the guest put the same modules into the initramfs it makes for its next kernel.
    fn settings(&mut self, absent: &[&str], plan: &mut Plan) -> Result<()> {
        if absent.is_empty() {
            return Ok(());
        }
        let debian = "/etc/initramfs-tools/modules";
        let (path, old, new) = if let Some(old) = self.tree.text(debian)? {
            let new = with_lines(&old, absent);
            (debian, Some(old), new)
        } else if self.tree.has("/etc/dracut.conf.d")? {
            let path = "/etc/dracut.conf.d/90-vdisk.conf";
            let old = self.tree.text(path)?;
            let new = format!("add_drivers+=\" {} \"\n", absent.join(" "));
            (path, old, new)
        } else {
            return Ok(());
        };
        if old.as_deref() == Some(new.as_str()) {
            return Ok(());
        }
        self.tree.write(path, new.as_bytes(), 0o644)?;
        let action = Action::new("linux.initramfs.settings", "name the modules", path)
            .why("the initramfs of the next kernel is to have them too")
            .after(absent.join(", "));
        plan.act(action);
        Ok(())
    }
}

/// The list of modules to load whatever is found, as the initramfs keeps it.
fn load_list(contents: &Contents, names: &[&str]) -> Option<(String, Vec<u8>)> {
    if names.is_empty() {
        return None;
    }
    if contents.has("scripts/init-top") {
        let old = contents.text("conf/modules").map(String::from_utf8_lossy).unwrap_or_default();
        let path = contents.resolve("conf/modules");
        return Some((path, with_lines(&old, names).into_bytes()));
    }
    if contents.has("usr/lib/dracut") || contents.has("lib/dracut") {
        let words: Vec<String> = names.iter().map(|name| format!("rd.driver.pre={name}")).collect();
        let path = contents.resolve("etc/cmdline.d/90-vdisk.conf");
        return Some((path, format!("{}\n", words.join(" ")).into_bytes()));
    }
    None
}

/// The archive with these files, and the directories that are not there yet.
fn pack(contents: &Contents, files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut writer = Writer::default();
    let mut made = std::collections::BTreeSet::new();
    for (path, bytes) in files {
        for (at, _) in path.match_indices('/') {
            let folder = path.get(..at).unwrap_or_default();
            if !contents.is_directory(folder) && made.insert(folder) {
                writer.directory(folder);
            }
        }
        writer.file(path, 0o644, bytes);
    }
    writer.finish()
}

/// The text with each name on a line of its own.
fn with_lines(text: &str, names: &[&str]) -> String {
    let mut new = text.to_owned();
    for name in names {
        if !text.lines().any(|line| line.trim() == *name) {
            if !new.is_empty() && !new.ends_with('\n') {
                new.push('\n');
            }
            new.push_str(name);
            new.push('\n');
        }
    }
    new
}

/// Lets modules be loaded that the guest's administrator forbade on the old hardware.
fn allow(tree: &mut Tree<'_>, needs: &Needs, plan: &mut Plan) -> Result<()> {
    let needed = |name: &str| {
        let name = name.replace('-', "_");
        needs.storage.contains(&name.as_str()) || needs.network.contains(&name.as_str())
    };
    let forbids = |line: &str| {
        let mut words = line.split_whitespace();
        match (words.next(), words.next(), words.next()) {
            (Some("blacklist"), Some(name), _) => needed(name),
            (Some("install"), Some(name), Some(program)) => {
                needed(name) && (program.ends_with("/true") || program.ends_with("/false"))
            }
            _ => false,
        }
    };
    for path in tree.glob("/etc/modprobe.d/*.conf")? {
        let Some(old) = tree.text(&path)? else { continue };
        let lines: Vec<&str> = old.lines().filter(|line| forbids(line)).collect();
        if lines.is_empty() {
            continue;
        }
        let freed = |line: &str| if forbids(line) { format!("#{line}") } else { line.to_owned() };
        let new: String = old.split_inclusive('\n').map(freed).collect();
        tree.write(&path, new.as_bytes(), 0o644)?;
        plan.act(
            Action::new("linux.modules.allow", "let drivers be loaded", path)
                .why("the target's devices need them")
                .before(lines.join("\n")),
        );
    }
    Ok(())
}

fn missing(path: &str) -> Error {
    Error::new(ErrorKind::NotFound, format!("{path} is not there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_added_once_and_in_order() {
        let new = with_lines("ahci", &["hv_vmbus", "hv_storvsc"]);
        assert_eq!(new, "ahci\nhv_vmbus\nhv_storvsc\n");
        assert_eq!(with_lines(&new, &["hv_storvsc", "ahci"]), new);
    }
}
