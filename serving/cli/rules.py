"""`rules`: check the rules of a shop against a bundle."""

import sys
from dataclasses import dataclass
from pathlib import Path

from ..command_line import argument, option
from ..pipeline.rules.catalog import RuleCatalog
from ..pipeline.rules.check import check_rules
from ..pipeline.rules.compiled import CompiledRules
from ..pipeline.rules.document import read_rules
from ..storage.bundle import open_bundle
from ..storage.bundle_mirror import bundle_path


@dataclass(frozen=True, kw_only=True)
class RulesOptions:
    """Check the rules of a shop against a bundle.

    example: %(prog)s check rules.toml --bundle bundle
    Prints how many items each rule matches, unknown names in rules, and conflicts between rules.
    exit codes: 0 no errors, 1 errors, 2 wrong arguments
    """

    action: str = argument("action: check", choices=("check",))
    file: Path = argument("rules (docs/reference/rules.md), a TOML file")
    bundle: Path = option(
        Path("bundle"), "bundle root or version folder; or s3://, gs://, abfs://", parse=bundle_path
    )


def rules(options: RulesOptions) -> int:
    """Check the rules. Returns the exit code."""
    read = read_rules(options.file)
    catalog = RuleCatalog(open_bundle(options.bundle))
    compiled = CompiledRules(read.values(), catalog)
    width = max((len(name) for name in read), default=0)
    for entry in compiled.rules:
        items = f"{entry.n_items:,} item{'s' * (entry.n_items != 1)}"
        print(f"{entry.rule.name:{width}}  {entry.rule.kind:14}  {items}")
    findings = check_rules(compiled)
    for finding in findings:
        label = "error" if finding.is_error else "warning"
        print(f"{label}: {finding.rule}: {finding.text}", file=sys.stderr)
    n_errors = sum(finding.is_error for finding in findings)
    counts = {"rule": len(read), "error": n_errors, "warning": len(findings) - n_errors}
    summary = ", ".join(f"{n} {noun}{'s' * (n != 1)}" for noun, n in counts.items())
    print(f"{options.file}: {summary}, bundle {catalog.version}", file=sys.stderr)
    return 1 if n_errors else 0
