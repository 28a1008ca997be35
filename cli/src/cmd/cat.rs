//! `vdisk cat`

use std::io::Write;

use vdisk::Result;

use super::{Context, Outcome, guest};
use crate::args::CatArgs;
use crate::show::broken_output;

pub(super) fn run(args: &CatArgs, context: &Context<'_>) -> Result<Outcome> {
    let (fs, path) = guest::open_at(&args.source, &args.location, context)?;
    let mut out = std::io::stdout().lock();
    let mut piece = vec![0; 1 << 20];
    let mut at = 0;
    loop {
        context.cancel.check()?;
        let len = fs.read_at(&path, at, &mut piece)?;
        out.write_all(piece.get(..len).unwrap_or_default()).map_err(broken_output)?;
        at += len as u64;
        if len < piece.len() {
            break;
        }
    }
    out.flush().map_err(broken_output)?;
    Ok(Outcome::Done)
}
