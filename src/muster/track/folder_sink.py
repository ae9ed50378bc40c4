"""The sink that writes a run into its folder as it happens."""

from __future__ import annotations

from muster.core.errors import RunFolderError
from muster.core.record import Record

from .folder import CURVE, LOG, RunFolder, Say, write_whole
from .phrases import Pacer, next_commands, outcome_lines, plan_lines, record_line
from .sink import RunPlan
from .summary import Summary


class FolderSink:
    """Writes a run into its folder as it happens.

    Args:
        folder: Made by `RunFolder.create`, or by `open` and then `cut` for a run that goes on.
        say: Where the user reads notices (the console's `say`), besides log.txt.
    """

    def __init__(self, folder: RunFolder, say: Say | None = None) -> None:
        self.folder = folder
        self._tell_user = say
        self._pacer = Pacer()
        self._plan: RunPlan | None = None

    def begin(self, plan: RunPlan) -> None:
        """Writes plan.json; a run that goes on loses the summary it had when it stopped."""
        self._plan = plan
        self.folder.write_plan(plan)
        if plan.resumed_from is not None:
            self.folder.forget_summary()
        for line in plan_lines(plan):
            self.folder.log(line)

    def tell(self, record: Record) -> None:
        """Appends the record; now and then a line to log.txt."""
        assert self._plan is not None
        self.folder.append(record)
        if self._pacer.lets(record):
            self.folder.log(record_line(self._plan, record))

    def say(self, line: str) -> None:
        """Adds a notice to log.txt."""
        self.folder.log(line)

    def end(self, summary: Summary) -> None:
        """Writes summary.json and curve.png."""
        assert self._plan is not None
        self.folder.write_summary(summary)
        try:
            for line in [*outcome_lines(self._plan, summary), *next_commands(self._plan, summary)]:
                self.folder.log(line)
            self._draw()
        except RunFolderError as error:  # the run is whole without them
            if self._tell_user is not None:
                why = str(error).partition(";")[0]
                self._tell_user(f"the run is whole, but {CURVE} or the end of {LOG} is missing: {why}")

    def _draw(self) -> None:
        from .picture import curve, png  # needs matplotlib only when it draws

        try:
            content = png(curve(self.folder.read(self.say)))
        except ImportError:
            note = f"no {CURVE}: matplotlib is not installed; get it with: pip install 'muster-fl[report]'"
            self.say(note)
            if self._tell_user is not None:
                self._tell_user(note)
            return
        write_whole(self.folder.path / CURVE, content)
