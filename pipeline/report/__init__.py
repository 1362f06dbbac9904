"""`ssr report`: what was run, on what, and what came out, as one HTML file that needs no network.

Every part stands alone: what is not made yet leaves a line that says what makes it.
"""

from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from pipeline.console import size
from pipeline.report.chart import HEIGHT, LEFT, RIGHT, WIDTH
from pipeline.report.page import Page
from pipeline.tables import UNTRAINED, sizes_text, statistics_text
from store.atomic import write_text

REPORT = "report.html"
"""Name of the file in a run's folder."""


def write_report(page: Page, run: Path) -> Path:
    """Write `<run>/report.html`; return the file."""
    environment = Environment(
        loader=PackageLoader(__name__, ""),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": size, "sizes": sizes_text, "statistics": statistics_text}
    frame = {"width": WIDTH, "height": HEIGHT, "left": LEFT, "right": RIGHT}
    text = environment.get_template("page.html.jinja").render(
        page=page, frame=frame, UNTRAINED=UNTRAINED
    )
    write_text(run / REPORT, text)
    return run / REPORT
