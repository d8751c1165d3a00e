// Package ledger owns one writer's work and its memory of what was acknowledged: what it writes, what every answer must
// be, and the reading back of everything at the end. In: a cluster client. Out: a Record.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// keptKeys is how many fresh keys a worker keeps; older ones are compared and deleted.
	keptKeys = 100
	// droppedKeys is how many deleted keys a worker remembers, to see that they stay deleted.
	droppedKeys = 300
	// elements is how many fields and members a worker's hash and sorted set have.
	elements = 32
	// writesPerCycle is what a cycle of a worker writes at least.
	writesPerCycle = 6
	// verifyFor is how long the reading back may last.
	verifyFor = 60 * time.Second
)

// Writers are all programs whose workers of these numbers leave notes of what was acknowledged.
var (
	Writers        = []string{"go", "node", "python"}
	workersOfNotes = 2
)

// Worker owns keys that nobody else writes, and has one request under way at a time.
type Worker struct {
	client redis.UniversalClient
	record *Record
	prefix string
	writer string
	number int

	serial   int
	counter  counter
	counted  time.Time
	fresh    []register
	dropped  []register
	fields   [elements]register
	members  [elements]register
	position int
}

func NewWorker(client redis.UniversalClient, record *Record, prefix, writer string, number int) *Worker {
	w := &Worker{client: client, record: record, prefix: prefix, writer: writer, number: number}
	for n := range elements {
		w.fields[n].name = "field-" + strconv.Itoa(n)
		w.members[n].name = "member-" + strconv.Itoa(n)
	}
	return w
}

// Run writes at the given pace until ctx is done.
func (w *Worker) Run(ctx context.Context, writesPerSecond float64) {
	cycle := time.Duration(float64(time.Second) * writesPerCycle / writesPerSecond)
	next := time.Now().Add(time.Duration(rand.Float64() * float64(cycle)))
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(next)):
		}
		w.cycle(ctx)
		next = next.Add(cycle)
		if late := time.Now(); next.Before(late) {
			next = late
		}
	}
}

func (w *Worker) cycle(ctx context.Context) {
	for _, work := range []func(){
		w.increment, w.setFresh, w.setField, w.increment, w.setFresh, w.setMember, w.readOwn, w.leaveNote, w.readOthers,
		w.dropOld,
	} {
		if ctx.Err() != nil {
			return
		}
		work()
	}
}

func (w *Worker) increment() {
	key := w.key("counter")
	w.do("INCR", key, true, func() error {
		value, err := w.client.Incr(context.Background(), key).Result()
		if err != nil {
			if isUnknown(err) {
				w.counter.slack++
			}
			return err
		}
		w.counter.answered(w, value)
		now := time.Now()
		if !w.counted.IsZero() {
			w.record.Gap(now.Sub(w.counted))
		}
		w.counted = now
		return nil
	})
}

func (w *Worker) setFresh() {
	key, value := w.key("fresh-"+strconv.Itoa(w.serial)), w.unique()
	register := register{name: key}
	w.do("SET", key, true, func() error {
		return register.wrote(value, w.client.Set(context.Background(), key, value, 0).Err())
	})
	w.fresh = append(w.fresh, register)
}

func (w *Worker) setField() {
	key, field, value := w.key("hash"), &w.fields[w.position%elements], w.unique()
	w.compare("HGET", key, field, w.hashGet)
	w.do("HSET", key, true, func() error {
		return field.wrote(value, w.client.HSet(context.Background(), key, field.name, value).Err())
	})
}

func (w *Worker) setMember() {
	key, member := w.key("zset"), &w.members[w.position%elements]
	w.position++
	w.compare("ZSCORE", key, member, w.score)
	w.serial++
	score := w.serial
	w.do("ZADD", key, true, func() error {
		err := w.client.ZAdd(context.Background(), key, redis.Z{Score: float64(score), Member: member.name}).Err()
		return member.wrote(strconv.Itoa(score), err)
	})
}

func (w *Worker) readOwn() {
	if len(w.fresh) > 0 {
		w.compare("GET", "", &w.fresh[rand.IntN(len(w.fresh))], w.get)
	}
}

func (w *Worker) dropOld() {
	for len(w.fresh) > keptKeys {
		old := w.fresh[0]
		w.fresh = w.fresh[1:]
		w.compare("GET", "", &old, w.get)
		deleted := false
		w.do("DEL", old.name, true, func() error {
			removed, err := w.client.Del(context.Background(), old.name).Result()
			if err == nil && removed != 1 && old.present && len(old.maybe) == 0 {
				w.record.Wrong("lost", "DEL", old.name, "1", strconv.FormatInt(removed, 10))
			}
			deleted = err == nil
			return err
		})
		if deleted && len(old.maybe) == 0 {
			w.dropped = append(w.dropped, register{name: old.name})
			w.dropped = w.dropped[max(0, len(w.dropped)-droppedKeys):]
		}
	}
}

// leaveNote tells the other writers of a key that was acknowledged.
func (w *Worker) leaveNote() {
	if w.number >= workersOfNotes || len(w.fresh) == 0 {
		return
	}
	newest := w.fresh[len(w.fresh)-1]
	if !newest.present || len(newest.maybe) > 0 {
		return
	}
	key := w.key("note")
	w.do("SET", key, true, func() error {
		return w.client.Set(context.Background(), key, newest.name+" "+newest.value, 0).Err()
	})
}

func (w *Worker) readOthers() {
	writer, number := Writers[rand.IntN(len(Writers))], rand.IntN(workersOfNotes)
	noteKey := fmt.Sprintf("%s:%s:%d:note", w.prefix, writer, number)
	var note string
	w.do("GET", noteKey, false, func() (err error) {
		note, err = w.client.Get(context.Background(), noteKey).Result()
		return absent(err)
	})
	key, value, found := strings.Cut(note, " ")
	if !found {
		return
	}
	other := register{name: key, value: value, present: true}
	w.compare("GET", "", &other, w.get)
}

// Verify reads back everything that was acknowledged.
func (w *Worker) Verify() {
	deadline := time.Now().Add(verifyFor)
	if w.counter.floor > 0 || w.counter.slack > 0 {
		key := w.key("counter")
		w.verifyOne(deadline, func() error {
			value, err := w.client.Get(context.Background(), key).Int64()
			if absent(err) == nil {
				w.counter.found(w, value)
			}
			return absent(err)
		})
	}
	for n := range w.fresh {
		if w.fresh[n].present {
			w.verifyRegister(deadline, "GET", "", &w.fresh[n], w.get)
		}
	}
	for n := range w.dropped {
		w.verifyRegister(deadline, "GET", "", &w.dropped[n], w.get)
	}
	for n := range elements {
		if w.fields[n].present {
			w.verifyRegister(deadline, "HGET", w.key("hash"), &w.fields[n], w.hashGet)
		}
		if w.members[n].present {
			w.verifyRegister(deadline, "ZSCORE", w.key("zset"), &w.members[n], w.score)
		}
	}
}

func (w *Worker) verifyRegister(deadline time.Time, op, key string, register *register, read reader) {
	w.verifyOne(deadline, func() error {
		value, err := read(key, register.name)
		if absent(err) == nil {
			register.compare(w, op, key, value, err == nil)
		}
		return absent(err)
	})
}

func (w *Worker) verifyOne(deadline time.Time, read func() error) {
	for {
		err := read()
		if err == nil || time.Now().After(deadline) {
			w.record.Verified(err == nil)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// reader reads the element name of key; a key of its own has an empty key.
type reader func(key, name string) (string, error)

func (w *Worker) get(_, name string) (string, error) {
	return w.client.Get(context.Background(), name).Result()
}

func (w *Worker) hashGet(key, name string) (string, error) {
	return w.client.HGet(context.Background(), key, name).Result()
}

func (w *Worker) score(key, name string) (string, error) {
	score, err := w.client.ZScore(context.Background(), key, name).Result()
	return strconv.FormatFloat(score, 'f', 0, 64), err
}

// compare reads and compares one register while the load runs.
func (w *Worker) compare(op, key string, register *register, read reader) {
	w.do(op, key+register.name, false, func() error {
		value, err := read(key, register.name)
		if absent(err) != nil {
			return err
		}
		register.compare(w, op, key, value, err == nil)
		return nil
	})
}

func (w *Worker) do(op, key string, write bool, work func() error) {
	began := time.Now()
	err := work()
	took := time.Since(began)
	if err == nil {
		w.record.Done(write, took)
		return
	}
	w.record.Failed(op, key, isUnknown(err), took, err)
	// An application, too, would not ask again at once.
	time.Sleep(5 * time.Millisecond)
}

func (w *Worker) key(name string) string {
	return fmt.Sprintf("%s:%s:%d:%s", w.prefix, w.writer, w.number, name)
}

func (w *Worker) unique() string {
	w.serial++
	return fmt.Sprintf("%s-%d-%d-%s", w.writer, w.number, w.serial, padding)
}

var padding = strings.Repeat("v", 64)

// absent takes "there is no such key" for an answer, not for an error.
func absent(err error) error {
	if errors.Is(err, redis.Nil) {
		return nil
	}
	return err
}

// isUnknown says whether the command may have had its effect: whatever is no answer of the server.
func isUnknown(err error) bool {
	if err == nil {
		return false
	}
	var refused *net.OpError
	if errors.As(err, &refused) && refused.Op == "dial" {
		return false
	}
	var answer redis.Error
	return !errors.As(err, &answer)
}
