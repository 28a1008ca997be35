//! Partition tables and logical volumes: where on a disk the volumes stand.
