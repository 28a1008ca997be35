//! `vdisk create`

use std::path::Path;

use serde_json::json;
use vdisk::{Error, Format, NewImage, OpenOptions, Result, parse_size};

use super::{Context, Outcome, new_image, output_format, told_options, with_folders};
use crate::args::CreateArgs;
use crate::show;

pub(super) fn run(args: &CreateArgs, context: &Context<'_>) -> Result<Outcome> {
    if let (Some(format), None) = (args.format, &args.image)
        && told_options(&args.options, format, context)?
    {
        return Ok(Outcome::Done);
    }
    let image = args.image.as_ref().ok_or_else(|| Error::usage("which image shall be created?"))?;
    let format = output_format(args.format, image)?;
    if told_options(&args.options, format, context)? {
        return Ok(Outcome::Done);
    }
    if let Some(parent) = &args.backing {
        if args.size.is_some() {
            return Err(Error::usage("a differencing image has its parent's size")
                .hint("leave the size out"));
        }
        let open = with_folders(None, &args.parent_dir);
        vdisk::create_child(image, format, parent, &open, &args.options, args.force)?;
        let child = OpenOptions::new().without_parents().open(image)?;
        return tell(image, format, child.info().virtual_size, context);
    }
    let size = args.size.as_ref().ok_or_else(|| {
        Error::usage("how large shall it be?").hint("give a size after the name, such as 40G")
    })?;
    let asked = parse_size(size)?;
    if asked == 0 {
        return Err(Error::usage("a disk of 0 bytes holds nothing"));
    }
    let new = new_image(NewImage::new(format, asked), &args.options)?;
    if new.virtual_size() != asked {
        let size = new.virtual_size();
        context.note(&format!("the size is rounded up to whole sectors: {size} bytes"));
    }
    vdisk::create(image, &new, args.force)?;
    tell(image, format, new.virtual_size(), context)
}

fn tell(image: &Path, format: Format, size: u64, context: &Context<'_>) -> Result<Outcome> {
    if context.json() {
        show::json(&json!({
            "schema": "vdisk.create/1",
            "filename": image.display().to_string(),
            "format": format.name(),
            "virtual-size": size,
        }))?;
    }
    Ok(Outcome::Done)
}
