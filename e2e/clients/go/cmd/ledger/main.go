// ledger-go is the ledger's writer on go-redis. See ../../../README.md for its flags, its work and its output.
package main

import (
	"bufio"
	"context"
	"flag"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"ringmaster.dev/e2e/clients/ledger"
)

func main() {
	var target ledger.Target
	flag.StringVar(&target.Host, "host", "127.0.0.1", "any member of the cluster, or a name of all")
	flag.IntVar(&target.Port, "port", 6379, "its port")
	flag.StringVar(&target.Password, "password", "", "the cluster's password")
	seconds := flag.Float64("seconds", 0, "how long to write; 0: until standard input ends")
	rate := flag.Float64("rate", 1000, "writes per second, of all workers")
	prefix := flag.String("keys-prefix", "ledger", "what the keys of this run begin with")
	workers := flag.Int("workers", 40, "workers, each with keys of its own")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if *seconds > 0 {
		ctx, stop = context.WithTimeout(ctx, time.Duration(*seconds*float64(time.Second)))
		defer stop()
	} else {
		ctx, stop = context.WithCancel(ctx)
		defer stop()
	}
	record := ledger.NewRecord("go", os.Stdout)
	go obey(record, *seconds == 0, stop)
	go tick(ctx, record)

	client := target.Client()
	all := make([]*ledger.Worker, *workers)
	var done sync.WaitGroup
	for n := range all {
		all[n] = ledger.NewWorker(client, record, *prefix, "go", n)
		done.Go(func() { all[n].Run(ctx, *rate/float64(*workers)) })
	}
	done.Wait()
	record.Stop()
	for _, worker := range all {
		done.Go(worker.Verify)
	}
	done.Wait()
	record.Summary()
}

// obey follows the lines of standard input; without a time of its own the ledger stops where they end.
func obey(record *ledger.Record, stopsAtEnd bool, stop func()) {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		if name, isPhase := strings.CutPrefix(lines.Text(), "phase "); isPhase {
			record.Phase(name)
		}
	}
	if stopsAtEnd {
		stop()
	}
}

func tick(ctx context.Context, record *ledger.Record) {
	for ticks := time.Tick(time.Second); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-ticks:
			record.Tick()
		}
	}
}
