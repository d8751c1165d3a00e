"""Owns what a writer remembers of its keys, and the judgement on what it reads."""


class Counter:
    """A key that is only ever incremented."""

    def __init__(self):
        # The value that was last answered, and the INCRs of unknown effect that no answer has shown since.
        self.floor, self.slack = 0, 0

    def judge(self, record, op, key, value):
        least = self.floor + 1 if op == "INCR" else self.floor
        expected = f"{least}..{least + self.slack}" if self.slack else str(least)
        if value < least:
            record.wrong("lost", op, key, expected, str(value))
        elif value > least + self.slack:
            record.wrong("doubled", op, key, expected, str(value))
            self.slack = 0
        else:
            self.slack -= value - least
        self.floor = value


class Register:
    """A thing that is set: a key, a field, a member. None stands for absent."""

    def __init__(self, name, value=None):
        self.name, self.value = name, value
        # Values whose writing ended unknown. They stay possible: a request may lie in a dead connection's buffer and
        # take effect later than the next one.
        self.maybe = []

    def compare(self, record, op, key, found):
        if found != self.value and found not in self.maybe:
            record.wrong("lost", op, f"{key} {self.name}", self.value or "(absent)", found or "(absent)")
