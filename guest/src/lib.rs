//! What lives on the volumes of a disk: file systems, files, operating systems.
