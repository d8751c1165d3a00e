package ledger

import (
	"slices"
	"strconv"
)

// counter remembers a key that is only ever incremented.
type counter struct {
	// floor is the value that was last answered.
	floor int64
	// slack counts INCRs of unknown effect that no answer has shown since.
	slack int64
}

// answered judges the answer to an INCR.
func (c *counter) answered(w *Worker, value int64) { c.judge(w, "INCR", c.floor+1, value) }

// found judges a value that was read.
func (c *counter) found(w *Worker, value int64) { c.judge(w, "GET", c.floor, value) }

func (c *counter) judge(w *Worker, op string, least, value int64) {
	key := w.key("counter")
	expected := strconv.FormatInt(least, 10)
	if c.slack > 0 {
		expected += ".." + strconv.FormatInt(least+c.slack, 10)
	}
	found := strconv.FormatInt(value, 10)
	switch {
	case value < least:
		w.record.Wrong("lost", op, key, expected, found)
	case value > least+c.slack:
		w.record.Wrong("doubled", op, key, expected, found)
		c.slack = 0
	default:
		c.slack -= value - least
	}
	c.floor = value
}

// register remembers a thing that is set: a key, a field, a member.
type register struct {
	name string
	// value was acknowledged last, if present.
	value   string
	present bool
	// maybe are values whose writing ended unknown. They stay possible: a request may lie in a dead connection's
	// buffer and take effect later than the next one.
	maybe []string
}

// wrote notes how a write ended, and gives the error back.
func (r *register) wrote(value string, err error) error {
	switch {
	case err == nil:
		r.value, r.present = value, true
	case isUnknown(err):
		r.maybe = append(r.maybe, value)
	}
	return err
}

func (r *register) compare(w *Worker, op, key, value string, found bool) {
	switch {
	case found && slices.Contains(r.maybe, value), found == r.present && value == r.value, !found && !r.present:
		return
	}
	if !found {
		value = "(absent)"
	}
	expected := r.value
	if !r.present {
		expected = "(absent)"
	}
	w.record.Wrong("lost", op, key+" "+r.name, expected, value)
}
