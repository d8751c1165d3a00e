// preload fills a cluster with keys whose values follow from their numbers, and compares all of them later.
//
//	preload load  --host H --port P --keys N --value-bytes B   as fast as pipelines go
//	preload check ...                                          each key must be there with its value
//
// Out: one line of JSON; exit code 1 when a key is missing or differs.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"ringmaster.dev/e2e/clients/ledger"
)

const (
	batch   = 500
	streams = 4
)

func main() {
	if len(os.Args) < 2 || (os.Args[1] != "load" && os.Args[1] != "check") {
		fmt.Fprintln(os.Stderr, "usage: preload load|check --host H --port P --keys N --value-bytes B")
		os.Exit(2)
	}
	flags := flag.NewFlagSet(os.Args[1], flag.ExitOnError)
	var target ledger.Target
	flags.StringVar(&target.Host, "host", "127.0.0.1", "any member of the cluster, or a name of all")
	flags.IntVar(&target.Port, "port", 6379, "its port")
	flags.StringVar(&target.Password, "password", "", "the cluster's password")
	keys := flags.Int64("keys", 1_000_000, "how many keys")
	valueBytes := flags.Int("value-bytes", 300, "size of a value")
	prefix := flags.String("keys-prefix", "preload", "what the keys begin with")
	_ = flags.Parse(os.Args[2:])

	load := loader{client: target.Client(), prefix: *prefix, padding: strings.Repeat("p", *valueBytes)}
	work := load.write
	if os.Args[1] == "check" {
		work = load.check
	}
	began := time.Now()
	failure := load.all(*keys, work)
	report := map[string]any{
		"kind": os.Args[1], "keys": load.done.Load(), "missing": load.missing.Load(), "different": load.different.Load(),
		"bytes": load.done.Load() * int64(*valueBytes), "seconds": time.Since(began).Seconds(),
	}
	if failure != nil {
		report["error"] = failure.Error()
	}
	_ = json.NewEncoder(os.Stdout).Encode(report)
	if failure != nil || load.missing.Load()+load.different.Load() > 0 {
		os.Exit(1)
	}
}

type loader struct {
	client                   redis.UniversalClient
	prefix, padding          string
	done, missing, different atomic.Int64
}

// all gives every key to work, in batches, over a few streams side by side. It stops at the first error.
func (l *loader) all(keys int64, work func(from, to int64) error) error {
	var next atomic.Int64
	var running sync.WaitGroup
	failures := make(chan error, streams)
	for range streams {
		running.Go(func() {
			for {
				from := next.Add(batch) - batch
				if from >= keys {
					return
				}
				if err := work(from, min(from+batch, keys)); err != nil {
					failures <- err
					next.Store(keys)
					return
				}
			}
		})
	}
	running.Wait()
	close(failures)
	return <-failures
}

func (l *loader) write(from, to int64) error {
	_, err := l.client.Pipelined(context.Background(), func(pipe redis.Pipeliner) error {
		for n := from; n < to; n++ {
			pipe.Set(context.Background(), l.key(n), l.value(n), 0)
		}
		return nil
	})
	if err == nil {
		l.done.Add(to - from)
	}
	return err
}

func (l *loader) check(from, to int64) error {
	answers, err := l.client.Pipelined(context.Background(), func(pipe redis.Pipeliner) error {
		for n := from; n < to; n++ {
			pipe.Get(context.Background(), l.key(n))
		}
		return nil
	})
	if err != nil && !errors.Is(err, redis.Nil) {
		return err
	}
	for at, answer := range answers {
		value, err := answer.(*redis.StringCmd).Result()
		switch {
		case errors.Is(err, redis.Nil):
			l.missing.Add(1)
		case err != nil:
			return err
		case value != l.value(from+int64(at)):
			l.different.Add(1)
		default:
			l.done.Add(1)
		}
	}
	return nil
}

func (l *loader) key(n int64) string { return fmt.Sprintf("%s:%d", l.prefix, n) }

func (l *loader) value(n int64) string {
	return fmt.Sprintf("%d-%s", n, l.padding)[:len(l.padding)]
}
