//! `vdisk create`

use vdisk::{Error, NewImage, Result, parse_size};

use super::{Context, Outcome, new_image, output_format, told_options, with_folders};
use crate::args::CreateArgs;

pub(super) fn run(args: &CreateArgs, context: &Context<'_>) -> Result<Outcome> {
    if let (Some(format), None) = (args.format, &args.image)
        && told_options(&args.options, format)?
    {
        return Ok(Outcome::Done);
    }
    let image = args.image.as_ref().ok_or_else(|| Error::usage("which image shall be created?"))?;
    let format = output_format(args.format, image)?;
    if told_options(&args.options, format)? {
        return Ok(Outcome::Done);
    }
    if let Some(parent) = &args.backing {
        if args.size.is_some() {
            return Err(Error::usage("a differencing image has its parent's size")
                .hint("leave the size out"));
        }
        let open = with_folders(None, &args.parent_dir);
        vdisk::create_child(image, format, parent, &open, &args.options, args.force)?;
        return Ok(Outcome::Done);
    }
    let size = args.size.as_ref().ok_or_else(|| {
        Error::usage("how large shall it be?").hint("give a size after the name, such as 40G")
    })?;
    let asked = parse_size(size)?;
    let new = new_image(NewImage::new(format, asked), &args.options)?;
    if new.virtual_size() != asked {
        let size = new.virtual_size();
        context.note(&format!("the size is rounded up to whole sectors: {size} bytes"));
    }
    vdisk::create(image, &new, args.force)?;
    Ok(Outcome::Done)
}
