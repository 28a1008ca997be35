//! `vdisk measure`

use serde_json::json;
use vdisk::{Disk, Format, NewImage, Result, parse_size};

use super::{Context, Outcome, new_image};
use crate::args::MeasureArgs;
use crate::show;

pub(super) fn run(args: &MeasureArgs, context: &Context<'_>) -> Result<Outcome> {
    let image = match &args.image {
        Some(path) => Some(args.source.open_options().open(path)?),
        None => None,
    };
    let size = match (&image, &args.size) {
        (Some(image), _) => image.len(),
        (None, size) => parse_size(size.as_deref().unwrap_or("0"))?,
    };
    let mut new = NewImage::new(args.output_format, size);
    if let Some(image) = image.as_ref().filter(|image| image.info().format != Format::Raw) {
        new.set_sectors(image.info().logical_sector, image.info().physical_sector);
    }
    let new = new_image(new, &args.options)?;
    let found = vdisk::measure(&new, image.as_ref().map(|image| image as &dyn Disk))?;
    if context.json() {
        show::json(&json!({
            "schema": "vdisk.measure/1",
            "required": found.required,
            "fully-allocated": found.fully_allocated,
        }))?;
    } else {
        show::text(&format!(
            "required size: {}\nfully allocated size: {}\n",
            found.required, found.fully_allocated
        ))?;
    }
    Ok(Outcome::Done)
}
