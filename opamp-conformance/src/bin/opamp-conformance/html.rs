//! `opamp-conformance html`.

use opamp_conformance::report::{Report, html};

use crate::args::HtmlArgs;
use crate::write;

pub(crate) fn run(args: &HtmlArgs) -> Result<u8, String> {
    let reports: Result<Vec<_>, _> = args.reports.iter().map(Report::read).collect();
    write(&args.out, &html::page(&reports.map_err(|error| error.to_string())?))?;
    Ok(0)
}
