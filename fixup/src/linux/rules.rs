//! Files that go, as a table: what programs make anew where it is missing.

/// When a rule applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// On other hardware, even for the same machine.
    Move,
    /// For another machine.
    Copy,
}

/// Files that go.
#[derive(Debug)]
pub(super) struct Rule {
    /// The id of its actions.
    pub(super) id: &'static str,
    pub(super) when: When,
    /// Whether the bytes are written over too.
    pub(super) wiped: bool,
    /// What it is, in a few words.
    pub(super) what: &'static str,
    pub(super) why: &'static str,
    /// Paths, with `*` for any part of a name. Folders go with all that is in them.
    pub(super) paths: &'static [&'static str],
}

const fn moved(
    id: &'static str,
    what: &'static str,
    why: &'static str,
    paths: &'static [&'static str],
) -> Rule {
    Rule { id, when: When::Move, wiped: false, what, why, paths }
}

const fn copied(
    id: &'static str,
    what: &'static str,
    why: &'static str,
    paths: &'static [&'static str],
) -> Rule {
    Rule { id, when: When::Copy, wiped: true, what, why, paths }
}

const TWO_LEASES: &str = "two machines would ask for one address";
const TWO_SECRETS: &str = "two machines would draw from one secret";
const TWO_CLIENTS: &str = "the service would take two machines for one";

/// All of them.
pub(super) const RULES: &[Rule] = &[
    moved(
        "linux.net.udev-rules",
        "remove names of old adapters",
        "they keep the old name for an adapter that is gone",
        &["/etc/udev/rules.d/70-persistent-net.rules", "/etc/udev/rules.d/70-persistent-cd.rules"],
    ),
    moved(
        "linux.lvm.devices",
        "remove LVM's list of devices",
        "it names disks by their old serial numbers, and LVM looks at no others",
        &["/etc/lvm/devices/system.devices"],
    ),
    moved(
        "linux.multipath",
        "remove names of multipath disks",
        "they belong to the old disks' serial numbers",
        &["/etc/multipath/wwids", "/etc/multipath/bindings"],
    ),
    copied(
        "linux.dhcp",
        "remove DHCP leases and identifiers",
        TWO_LEASES,
        &[
            "/var/lib/dhclient/*",
            "/var/lib/dhcp/*.lease*",
            "/var/lib/dhcpcd/*",
            "/var/lib/NetworkManager/*.lease",
            "/var/lib/NetworkManager/*-dhclient*.conf",
            "/var/lib/wicked/*.xml",
            "/etc/dhcpcd.duid",
            "/etc/dhcpcd.secret",
        ],
    ),
    copied(
        "linux.network-manager",
        "remove NetworkManager's secret",
        "the addresses it makes from it would be the same",
        &["/var/lib/NetworkManager/secret_key"],
    ),
    copied(
        "linux.random-seed",
        "remove the seed of random numbers",
        "two machines would begin with the same random numbers",
        &[
            "/var/lib/systemd/random-seed",
            "/var/lib/random-seed",
            "/var/lib/urandom/random-seed",
            "/var/lib/misc/random-seed",
            "/boot/efi/loader/random-seed",
            "/boot/loader/random-seed",
            "/efi/loader/random-seed",
        ],
    ),
    copied(
        "linux.credentials",
        "remove the key of systemd's credentials",
        TWO_SECRETS,
        &["/var/lib/systemd/credential.secret"],
    ),
    copied(
        "linux.cloud-init",
        "remove what cloud-init has done",
        "it takes itself for the old instance",
        &[
            "/var/lib/cloud/instance",
            "/var/lib/cloud/instances/*",
            "/var/lib/cloud/data/*",
            "/var/lib/cloud/sem/*",
        ],
    ),
    Rule {
        // They are long, and no secret.
        wiped: false,
        ..copied(
            "linux.journals",
            "remove the journals",
            "they stand under the old machine's id",
            &["/var/log/journal/*"],
        )
    },
    copied(
        "linux.join.kerberos",
        "remove the host's Kerberos keys",
        "they are the old machine's account",
        &["/etc/krb5.keytab"],
    ),
    copied(
        "linux.join.samba",
        "remove the secrets of a domain member",
        "they are the old machine's account",
        &["/var/lib/samba/private/secrets.tdb", "/var/lib/samba/secrets.tdb"],
    ),
    copied(
        "linux.join.sssd",
        "remove what SSSD remembers",
        "it belongs to the old machine's account",
        &["/var/lib/sss/db/*.ldb", "/var/lib/sss/secrets/*"],
    ),
    copied(
        "linux.agent.red-hat",
        "remove the subscription",
        TWO_CLIENTS,
        &[
            "/etc/pki/consumer/*",
            "/etc/pki/entitlement/*",
            "/etc/sysconfig/rhn/systemid",
            "/etc/insights-client/machine-id",
        ],
    ),
    copied(
        "linux.agent.ubuntu",
        "remove the subscription",
        TWO_CLIENTS,
        &["/var/lib/ubuntu-advantage/private/*"],
    ),
    copied(
        "linux.agent.suse",
        "remove the subscription",
        TWO_CLIENTS,
        &["/etc/zypp/credentials.d/SCCcredentials", "/etc/SUSEConnect"],
    ),
    copied(
        "linux.agent.puppet",
        "remove Puppet's certificates",
        TWO_CLIENTS,
        &["/etc/puppetlabs/puppet/ssl", "/var/lib/puppet/ssl", "/etc/puppet/ssl"],
    ),
    copied(
        "linux.agent.salt",
        "remove Salt's id and keys",
        TWO_CLIENTS,
        &["/etc/salt/minion_id", "/etc/salt/pki/minion/*"],
    ),
    copied("linux.agent.chef", "remove Chef's key", TWO_CLIENTS, &["/etc/chef/client.pem"]),
    copied(
        "linux.agent.docker",
        "remove Docker's id",
        TWO_CLIENTS,
        &["/var/lib/docker/engine-id", "/etc/docker/key.json"],
    ),
    copied(
        "linux.agent.splunk",
        "remove Splunk's id",
        TWO_CLIENTS,
        &["/opt/splunkforwarder/etc/instance.cfg", "/opt/splunk/etc/instance.cfg"],
    ),
    copied(
        "linux.agent.nvme",
        "remove the name of the NVMe host",
        TWO_CLIENTS,
        &["/etc/nvme/hostid", "/etc/nvme/hostnqn"],
    ),
];
