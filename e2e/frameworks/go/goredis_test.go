// Package frameworks drives go-redis against a cluster and against one primary.
package frameworks

import (
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
)

func standalone(t *testing.T) *redis.Client {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:" + os.Getenv("PORT")})
	t.Cleanup(func() { client.Close() })
	return client
}

func cluster(t *testing.T) *redis.ClusterClient {
	client := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:" + os.Getenv("CLUSTER_PORT")}})
	t.Cleanup(func() { client.Close() })
	return client
}

func TestAWorkerWaitsForWhatIsPushed(t *testing.T) {
	ctx, client := context.Background(), standalone(t)
	got := make(chan []string, 1)
	go func() {
		values, err := client.BLPop(ctx, 10*time.Second, "go:none", "go:jobs").Result()
		if err != nil {
			t.Error(err)
		}
		got <- values
	}()
	time.Sleep(100 * time.Millisecond)
	client.RPush(ctx, "go:jobs", "a")
	if values := <-got; len(values) != 2 || values[0] != "go:jobs" || values[1] != "a" {
		t.Fatalf("got %v", values)
	}
	if err := client.BLPop(ctx, time.Second, "go:jobs").Err(); err != redis.Nil {
		t.Fatalf("a wait that ends: %v", err)
	}
}

func TestMessagesReachSubscribers(t *testing.T) {
	ctx, client := context.Background(), cluster(t)
	subscription := client.Subscribe(ctx, "go:news")
	defer subscription.Close()
	if _, err := subscription.Receive(ctx); err != nil {
		t.Fatal(err)
	}
	messages := subscription.Channel()
	err := client.ForEachMaster(ctx, func(ctx context.Context, member *redis.Client) error {
		return member.Publish(ctx, "go:news", "hello").Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < 3; i++ {
		select {
		case message := <-messages:
			if message.Payload != "hello" {
				t.Fatal(message)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("message %d did not come", i)
		}
	}
}

func TestAScriptRunsInACluster(t *testing.T) {
	ctx, client := context.Background(), cluster(t)
	script := redis.NewScript(`return redis.call("INCRBY", KEYS[1], ARGV[1])`)
	for i := 0; i < 30; i++ {
		key := fmt.Sprintf("go:counter:%d", i)
		client.Del(ctx, key)
		if sum, err := script.Run(ctx, client, []string{key}, 7).Int(); err != nil || sum != 7 {
			t.Fatalf("%s: %d, %v", key, sum, err)
		}
	}
}

func TestATransactionSeesInterference(t *testing.T) {
	ctx, client := context.Background(), standalone(t)
	client.Set(ctx, "go:watched", "1", 0)
	err := client.Watch(ctx, func(tx *redis.Tx) error {
		client.Set(ctx, "go:watched", "2", 0)
		_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
			pipe.Set(ctx, "go:watched", "3", 0)
			return nil
		})
		return err
	}, "go:watched")
	if err != redis.TxFailedErr {
		t.Fatalf("it went through: %v", err)
	}
	if value := client.Get(ctx, "go:watched").Val(); value != "2" {
		t.Fatal(value)
	}
}

func TestValuesEndAndIncrementsOfManyAllCount(t *testing.T) {
	ctx, client := context.Background(), cluster(t)
	if err := client.Set(ctx, "go:short", "x", 150*time.Millisecond).Err(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); client.Exists(ctx, "go:short").Val() > 0; {
		if time.Now().After(deadline) {
			t.Fatal("it does not end")
		}
	}
	client.Del(ctx, "go:sum")
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 250 {
				if err := client.Incr(ctx, "go:sum").Err(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
	if sum, err := client.Get(ctx, "go:sum").Int(); sum != 2000 || err != nil {
		t.Fatalf("%d, %v", sum, err)
	}
}

func TestAPipelineOverAllSlotsKeepsItsOrder(t *testing.T) {
	ctx, client := context.Background(), cluster(t)
	answers, err := client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for i := range 200 {
			pipe.Set(ctx, fmt.Sprintf("go:piped:%d", i), i, time.Minute)
			pipe.Get(ctx, fmt.Sprintf("go:piped:%d", i))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 200 {
		if value, err := answers[2*i+1].(*redis.StringCmd).Int(); value != i || err != nil {
			t.Fatalf("%d: %d, %v", i, value, err)
		}
	}
}

func TestEachJobGoesToOneWorker(t *testing.T) {
	ctx, client := context.Background(), standalone(t)
	client.Del(ctx, "go:queue")
	done, workers := make(chan string, 300), sync.WaitGroup{}
	for range 4 {
		workers.Go(func() {
			for {
				job, err := client.BLPop(ctx, 10*time.Second, "go:queue").Result()
				if err != nil {
					t.Error(err)
					return
				}
				if job[1] == "end" {
					return
				}
				done <- job[1]
			}
		})
	}
	for i := range 200 {
		client.RPush(ctx, "go:queue", fmt.Sprint("job-", i))
	}
	client.RPush(ctx, "go:queue", "end", "end", "end", "end")
	workers.Wait()
	close(done)
	times := map[string]int{}
	for job := range done {
		times[job]++
		if times[job] > 1 {
			t.Errorf("%s was done twice", job)
		}
	}
	if len(times) != 200 {
		t.Fatalf("%d jobs were done", len(times))
	}
}
