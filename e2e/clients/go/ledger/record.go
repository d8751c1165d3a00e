package ledger

import (
	"encoding/json"
	"io"
	"sort"
	"sync"
	"time"
)

// Record owns what a writer saw: it counts operations by phase, notes the errors that reached the application and the
// answers that were wrong, and prints each as a line of JSON. Safe for concurrent use.
type Record struct {
	writer string

	mu         sync.Mutex
	out        *json.Encoder
	phases     []*phase
	second     second
	errors     int
	unknown    int
	lost       int
	doubled    int
	verified   int
	unverified int
	texts      map[string]int
	lines      int
}

type phase struct {
	name                  string
	began, ended          time.Time
	writes, reads, errors int
	latencies             []float32
	gapMs                 float64
}

type second struct {
	writes, reads, errors, wrong int
	maxMs                        float64
}

// linesMax bounds the single errors that are printed; all are counted.
const linesMax = 2000

// textsMax bounds the different error texts that are kept apart.
const textsMax = 50

func NewRecord(writer string, out io.Writer) *Record {
	record := &Record{writer: writer, out: json.NewEncoder(out), texts: map[string]int{}}
	record.out.SetEscapeHTML(false)
	record.print(line{"kind": "started"})
	record.Phase("all")
	return record
}

type line map[string]any

func (r *Record) print(content line) {
	content["writer"] = r.writer
	content["t"] = time.Now().UnixMilli()
	_ = r.out.Encode(content)
}

// Phase begins a phase; what is counted from now on is counted there.
func (r *Record) Phase(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	if len(r.phases) > 0 {
		r.current().ended = now
	}
	r.phases = append(r.phases, &phase{name: name, began: now})
}

func (r *Record) current() *phase { return r.phases[len(r.phases)-1] }

// Done notes an acknowledged operation.
func (r *Record) Done(write bool, took time.Duration) {
	ms := took.Seconds() * 1000
	r.mu.Lock()
	defer r.mu.Unlock()
	current := r.current()
	if write {
		current.writes++
		r.second.writes++
	} else {
		current.reads++
		r.second.reads++
	}
	current.latencies = append(current.latencies, float32(ms))
	r.second.maxMs = max(r.second.maxMs, ms)
}

// Gap notes how long a counter went without an acknowledged INCR.
func (r *Record) Gap(gap time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	current := r.current()
	current.gapMs = max(current.gapMs, gap.Seconds()*1000)
}

// Failed notes an operation that ended in an error, of which the effect may be unknown.
func (r *Record) Failed(op, key string, unknown bool, took time.Duration, err error) {
	ms := took.Seconds() * 1000
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errors++
	if unknown {
		r.unknown++
	}
	r.current().errors++
	r.current().latencies = append(r.current().latencies, float32(ms))
	r.second.errors++
	r.second.maxMs = max(r.second.maxMs, ms)
	if r.texts[err.Error()] > 0 || len(r.texts) < textsMax {
		r.texts[err.Error()]++
	} else {
		r.texts["others"]++
	}
	if r.lines++; r.lines <= linesMax {
		r.print(line{"kind": "error", "op": op, "key": key, "unknown": unknown, "ms": ms, "text": err.Error()})
	}
}

// Wrong notes an answer that no kept promise explains. what is "lost" or "doubled".
func (r *Record) Wrong(what, op, key, expected, found string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if what == "doubled" {
		r.doubled++
	} else {
		r.lost++
	}
	r.second.wrong++
	if r.lines++; r.lines <= linesMax {
		r.print(line{"kind": "wrong", "what": what, "op": op, "key": key, "expected": expected, "found": found})
	}
}

// Verified notes how an acknowledged thing was found at the end.
func (r *Record) Verified(read bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if read {
		r.verified++
	} else {
		r.unverified++
	}
}

// Tick prints what happened since the last tick.
func (r *Record) Tick() {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.second
	r.second = second{}
	r.print(line{"kind": "second", "phase": r.current().name, "writes": s.writes, "reads": s.reads,
		"errors": s.errors, "wrong": s.wrong, "max_ms": round(s.maxMs)})
}

// Stop ends the last phase: what follows is verification, not load.
func (r *Record) Stop() { r.Phase("verification") }

// Summary prints the summary.
func (r *Record) Summary() {
	r.mu.Lock()
	defer r.mu.Unlock()
	acknowledged := 0
	phases := []line{}
	for _, p := range r.phases[:len(r.phases)-1] {
		acknowledged += p.writes
		sort.Slice(p.latencies, func(a, b int) bool { return p.latencies[a] < p.latencies[b] })
		phases = append(phases, line{
			"name": p.name, "seconds": round(p.ended.Sub(p.began).Seconds()), "writes": p.writes, "reads": p.reads,
			"errors": p.errors, "p50_ms": p.percentile(0.5), "p99_ms": p.percentile(0.99),
			"p999_ms": p.percentile(0.999), "max_ms": p.percentile(1), "gap_ms": round(p.gapMs),
		})
	}
	r.print(line{"kind": "summary", "acknowledged": acknowledged, "errors": r.errors, "unknown": r.unknown,
		"lost": r.lost, "doubled": r.doubled, "verified": r.verified, "unverified": r.unverified,
		"error_texts": r.texts, "phases": phases})
}

func (p *phase) percentile(share float64) float64 {
	if len(p.latencies) == 0 {
		return 0
	}
	return round(float64(p.latencies[int(share*float64(len(p.latencies)-1))]))
}

func round(value float64) float64 { return float64(int(value*100+0.5)) / 100 }
