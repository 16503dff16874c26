//! Finds the user who made a change, from the kernel's audit records (Linux).
//!
//! Constraint: never return a wrong user. Only two kinds of records are evidence: records about the
//! file itself, and records about the move of a directory above the file. If a record may be
//! missing, there is no answer, and the next source in `username:` applies. The numbers of open
//! calls, path records and changes are limited.
//!
//! The kernel reports a system call as several records: the call, its paths, and an end. Records of
//! concurrent calls are interleaved. A record has a path exactly as the caller wrote it, for
//! example a relative one. So a file is identified by its own device and inode, and by those of its
//! directory.
//!
//! - [`record`] parses one record. Pure.
//! - [`assemble`] collects the records of a system call. Pure.
//! - [`change`] derives changes of files and directories from a system call. Pure.
//! - [`memory`] keeps recent changes, and finds the system call behind an observed change.
//! - [`netlink`] receives the records. It needs CAP_AUDIT_READ, but no audit daemon.
//! - [`reader`] is the thread that fills [`memory`].
//! - [`setup`] lists the requirements that this machine does not meet.

mod assemble;
mod change;
mod memory;
#[cfg(target_os = "linux")]
mod netlink;
mod reader;
mod record;
mod setup;

pub use assemble::{Assembled, Assembler, Call};
pub use change::{Change, Deed, Device, Node, Place, changes};
pub use memory::{Act, Asked, Memory, PathNodes, Question};
pub(crate) use reader::Reader;
pub(crate) use setup::{Gap, gap_of, gaps, is_in_container};
