//! `opamp-conformance compare`.

use std::path::Path;

use opamp_conformance::report::Report;
use opamp_conformance::report::compare::compare;

use crate::args::CompareArgs;
use crate::write;

pub(crate) fn run(args: &CompareArgs) -> Result<u8, String> {
    let read = |path| Report::read(path).map_err(|error| error.to_string());
    let comparison = compare(&read(&args.before)?, &read(&args.after)?);
    let text = if args.json {
        serde_json::to_string_pretty(&comparison).map_err(|error| error.to_string())? + "\n"
    } else {
        comparison.to_string()
    };
    write(Path::new("-"), &text)?;
    Ok(comparison.exit_status())
}
