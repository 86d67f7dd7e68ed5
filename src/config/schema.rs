//! What a `zeo.conf` may contain: section types with their keys, and which section may stand in
//! which. Keys of the original's versions 4 to 6 are all here. What a value means is told in
//! [`super::settings`]; what this server does not have, in [`super::refusals`].

/// A key of a section type.
#[derive(Debug)]
pub struct Key {
    /// Its name, in lower case.
    pub name: &'static str,
    /// Whether the section cannot do without it.
    pub required: bool,
    /// Whether it may be repeated.
    pub many: bool,
}

/// A place for sections inside a section.
#[derive(Debug)]
pub struct Slot {
    /// A section type, or an abstract type.
    pub accepts: &'static str,
    /// Whether several sections may stand there.
    pub many: bool,
    /// Whether one must stand there.
    pub required: bool,
}

/// A section type.
#[derive(Debug)]
pub struct SectionType {
    /// Its name, in lower case.
    pub name: &'static str,
    /// The abstract type it is a case of.
    pub implements: &'static str,
    /// The package that an `%import` has to name first; empty if it is always known.
    pub package: &'static str,
    /// Its places for sections.
    pub slots: &'static [Slot],
    /// Its keys, in the order in which they are checked.
    pub keys: &'static [Key],
}

/// The abstract section types. A file cannot use them directly.
pub const ABSTRACT_TYPES: [&str; 4] = ["zodb.storage", "zodb.database", "zconfig.logger.handler", "zconfig.logger.log"];

/// The packages whose section types are always known, so that importing them changes nothing.
pub const IMPORTED_PACKAGES: [&str; 4] = ["ZODB", "ZConfig.components.logger", "zdaemon", "ZEO"];

const STORAGE: &str = "zodb.storage";
const HANDLER: &str = "zconfig.logger.handler";
const LOG: &str = "zconfig.logger.log";

const fn optional(name: &'static str) -> Key {
    Key { name, required: false, many: false }
}

const fn required(name: &'static str) -> Key {
    Key { name, required: true, many: false }
}

const fn repeated(name: &'static str) -> Key {
    Key { name, required: false, many: true }
}

/// The file as a whole.
pub static TOP: SectionType = SectionType {
    name: "",
    implements: "",
    package: "",
    slots: &[
        Slot { accepts: "zeo", many: false, required: true },
        Slot { accepts: "runner", many: false, required: false },
        Slot { accepts: STORAGE, many: true, required: true },
        Slot { accepts: "eventlog", many: false, required: false },
    ],
    keys: &[],
};

/// A type without keys or places: one that is refused, or that fits nowhere in a `zeo.conf`.
const fn bare(name: &'static str, implements: &'static str, package: &'static str) -> SectionType {
    SectionType { name, implements, package, slots: &[], keys: &[] }
}

/// All section types.
pub static SECTION_TYPES: &[SectionType] = &[
    SectionType {
        name: "zeo",
        implements: "",
        package: "",
        slots: &[
            Slot { accepts: "ssl", many: false, required: false },
            Slot { accepts: "listener", many: true, required: false },
        ],
        keys: &[
            // One is required, unless there is a <listener>.
            repeated("address"),
            optional("read-only"),
            optional("invalidation-queue-size"),
            optional("invalidation-age"),
            optional("transaction-timeout"),
            optional("pid-filename"),
            optional("client-conflict-resolution"),
            optional("msgpack"),
            repeated("allow"),
            // Of the original before version 5:
            optional("monitor-address"),
            optional("authentication-protocol"),
            optional("authentication-database"),
            optional("authentication-realm"),
            optional("drop-cache-rather-verify"),
        ],
    },
    SectionType {
        name: "listener",
        implements: "",
        package: "",
        slots: &[Slot { accepts: "ssl", many: false, required: false }],
        keys: &[repeated("address"), optional("read-only"), optional("msgpack"), repeated("allow")],
    },
    SectionType {
        name: "ssl",
        implements: "",
        package: "",
        slots: &[Slot { accepts: "client", many: true, required: false }],
        keys: &[
            required("certificate"),
            optional("key"),
            optional("password-function"),
            required("authenticate"),
            optional("password-file"),
        ],
    },
    SectionType {
        name: "client",
        implements: "",
        package: "",
        slots: &[],
        keys: &[optional("common-name"), optional("fingerprint"), repeated("storages"), optional("read-only")],
    },
    SectionType {
        name: "filestorage",
        implements: STORAGE,
        package: "",
        slots: &[],
        keys: &[
            required("path"),
            optional("blob-dir"),
            optional("create"),
            optional("read-only"),
            optional("quota"),
            optional("packer"),
            optional("pack-gc"),
            optional("pack-keep-old"),
        ],
    },
    SectionType { name: "mappingstorage", implements: STORAGE, package: "", slots: &[], keys: &[optional("name")] },
    SectionType {
        name: "blobstorage",
        implements: STORAGE,
        package: "",
        slots: &[Slot { accepts: STORAGE, many: false, required: false }],
        keys: &[required("blob-dir")],
    },
    SectionType {
        name: "eventlog",
        implements: LOG,
        package: "",
        slots: &[Slot { accepts: HANDLER, many: true, required: false }],
        keys: &[optional("level")],
    },
    SectionType {
        name: "logger",
        implements: LOG,
        package: "",
        slots: &[Slot { accepts: HANDLER, many: true, required: false }],
        keys: &[optional("level"), required("name"), optional("propagate")],
    },
    SectionType {
        name: "logfile",
        implements: HANDLER,
        package: "",
        slots: &[],
        keys: &[
            optional("formatter"),
            optional("dateformat"),
            optional("level"),
            optional("style"),
            optional("arbitrary-fields"),
            required("path"),
            optional("old-files"),
            optional("max-size"),
            optional("when"),
            optional("interval"),
            optional("format"),
            optional("encoding"),
            optional("delay"),
        ],
    },
    SectionType {
        name: "runner",
        implements: "",
        package: "",
        slots: &[Slot { accepts: LOG, many: false, required: false }],
        keys: &[
            required("program"),
            optional("python"),
            optional("zdrun"),
            optional("socket-name"),
            optional("daemon"),
            optional("directory"),
            optional("backoff-limit"),
            optional("forever"),
            optional("exit-codes"),
            optional("start-test-program"),
            optional("start-timeout"),
            optional("stop-timeout"),
            optional("user"),
            optional("umask"),
            optional("hang-around"),
            optional("default-to-interactive"),
            optional("logfile"),
            optional("transcript"),
            optional("prompt"),
        ],
    },
    bare("demostorage", STORAGE, ""),
    bare("zeoclient", STORAGE, ""),
    bare("fullstorage", STORAGE, ""),
    bare("minimalstorage", STORAGE, ""),
    bare("syslog", HANDLER, ""),
    bare("http-logger", HANDLER, ""),
    bare("email-notifier", HANDLER, ""),
    bare("win32-eventlog", HANDLER, ""),
    bare("zodb", "zodb.database", ""),
    bare("environment", "", ""),
    bare("zconfig.logger.base-log-handler", "", ""),
    bare("zconfig.logger.base-logger", "", ""),
    bare("clientstorage", STORAGE, "ZEO"),
    bare("zlibstorage", STORAGE, "zc.zlibstorage"),
    bare("serverzlibstorage", STORAGE, "zc.zlibstorage"),
    bare("zrs", STORAGE, "zc.zrs"),
    bare("temporarystorage", STORAGE, "tempstorage"),
    bare("relstorage", STORAGE, "relstorage"),
];

impl Slot {
    /// Whether a section of type `kind` may stand here.
    pub fn takes(&self, kind: &SectionType) -> bool {
        self.accepts == kind.name || self.accepts == kind.implements
    }
}
