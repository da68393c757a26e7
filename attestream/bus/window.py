"""How many messages a consumer has asked for and not yet got."""

from __future__ import annotations


class PullWindow:
    """Accounts for overlapping pulls of ``batch`` messages each.

    A new pull is due when no more than half a batch is outstanding, so at most one and a half batches ever are. Pulls belong
    to a generation; when a pull may be lost, :meth:`reset` starts the next and late word of the old ones is not counted.
    """

    __slots__ = ("batch", "generation", "outstanding")

    def __init__(self, batch: int) -> None:
        self.batch = batch
        self.generation = 0
        self.outstanding = 0

    @property
    def due(self) -> bool:
        """Whether another pull should be made."""
        return self.outstanding <= self.batch >> 1

    def opened(self) -> None:
        """Count a pull that was made."""
        self.outstanding += self.batch

    def arrived(self) -> None:
        """Count a message. One of an earlier generation may come when nothing is outstanding."""
        if self.outstanding:
            self.outstanding -= 1

    def ended(self, generation: int, left: int) -> None:
        """Count the end of a pull of which ``left`` messages were not delivered."""
        if generation == self.generation:
            self.outstanding = max(0, self.outstanding - min(left, self.batch))

    def reset(self) -> None:
        """Forget every pull that was made."""
        self.generation += 1
        self.outstanding = 0
