// Owns what a writer remembers of its keys, and the judgement on what it reads.

// A key that is only ever incremented.
export class Counter {
  // The value that was last answered.
  floor = 0;
  // INCRs of unknown effect that no answer has shown since.
  slack = 0;

  judge(record, op, key, value) {
    const least = op === "INCR" ? this.floor + 1 : this.floor;
    const expected = this.slack > 0 ? `${least}..${least + this.slack}` : `${least}`;
    if (value < least) {
      record.wrong("lost", op, key, expected, `${value}`);
    } else if (value > least + this.slack) {
      record.wrong("doubled", op, key, expected, `${value}`);
      this.slack = 0;
    } else {
      this.slack -= value - least;
    }
    this.floor = value;
  }
}

// A thing that is set: a key, a field, a member. null stands for absent.
export class Register {
  // Values whose writing ended unknown. They stay possible: a request may lie in a dead connection's buffer and take
  // effect later than the next one.
  maybe = [];

  constructor(name, value = null) {
    this.name = name;
    this.value = value;
  }

  compare(record, op, key, found) {
    if (found !== this.value && !this.maybe.includes(found)) {
      record.wrong("lost", op, `${key} ${this.name}`, this.value ?? "(absent)", found ?? "(absent)");
    }
  }
}
