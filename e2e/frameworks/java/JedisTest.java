import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.ConcurrentLinkedQueue;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.Executors;
import java.util.concurrent.TimeUnit;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.Jedis;
import redis.clients.jedis.JedisCluster;
import redis.clients.jedis.JedisPool;
import redis.clients.jedis.JedisPubSub;
import redis.clients.jedis.Response;
import redis.clients.jedis.Transaction;
import redis.clients.jedis.params.SetParams;

/** Jedis, with the cluster protocol and without. In: CLUSTER_PORT and PORT. Any claim that does not hold ends it with an exception. */
public class JedisTest {
    static final int CLUSTER_PORT = Integer.parseInt(System.getenv("CLUSTER_PORT"));
    static final int PORT = Integer.parseInt(System.getenv("PORT"));

    public static void main(String[] arguments) throws Exception {
        try (var cluster = new JedisCluster(new HostAndPort("127.0.0.1", CLUSTER_PORT))) {
            valuesAreFoundWhereverTheyAre(cluster);
            valuesEnd(cluster);
            pipelinesAndScriptsGoToTheirSlots(cluster);
            incrementsOfManyThreadsAllCount(cluster);
            messagesReachSubscribers(cluster);
        }
        try (var pool = new JedisPool("127.0.0.1", PORT)) {
            anInterferedTransactionDoesNothing(pool);
            eachJobGoesToOneWorker(pool);
        }
        System.out.println("passed");
    }

    static void valuesAreFoundWhereverTheyAre(JedisCluster cluster) {
        check(cluster.getClusterNodes().size(), 6);
        for (int n = 0; n < 300; n++) check(cluster.set("jedis:" + n, "value-" + n), "OK");
        for (int n = 0; n < 300; n++) check(cluster.get("jedis:" + n), "value-" + n);
        check(cluster.mset("{jedis}a", "1", "{jedis}b", "2"), "OK");
        check(cluster.mget("{jedis}a", "{jedis}b", "{jedis}none"), java.util.Arrays.asList("1", "2", null));
        cluster.hset("jedis:hash", Map.of("a", "1", "b", "2"));
        check(cluster.hgetAll("jedis:hash"), Map.of("a", "1", "b", "2"));
        cluster.zadd("jedis:scores", Map.of("low", 1.0, "high", 2.5));
        check(cluster.zrevrange("jedis:scores", 0, -1), List.of("high", "low"));
        check(cluster.zscore("jedis:scores", "high"), 2.5);
        cluster.sadd("jedis:set", "x", "y");
        check(cluster.smembers("jedis:set"), Set.of("x", "y"));
        for (int n = 0; n < 300; n++) check(cluster.del("jedis:" + n), 1L);
    }

    static void valuesEnd(JedisCluster cluster) throws InterruptedException {
        check(cluster.set("jedis:short", "x", SetParams.setParams().px(150)), "OK");
        check(cluster.set("jedis:short", "y", SetParams.setParams().nx()), null);
        cluster.setex("jedis:long", 600, "x");
        check(cluster.ttl("jedis:long") > 590, true);
        for (int looks = 0; cluster.exists("jedis:short"); looks++) {
            check(looks < 200, true);
            Thread.sleep(10);
        }
        check(cluster.get("jedis:long"), "x");
    }

    static void pipelinesAndScriptsGoToTheirSlots(JedisCluster cluster) {
        List<Response<Long>> answers = new ArrayList<>();
        for (int n = 0; n < 100; n++) cluster.del("jedis:piped:" + n);
        try (var pipeline = cluster.pipelined()) {
            for (int n = 0; n < 100; n++) answers.add(pipeline.incrBy("jedis:piped:" + n, n));
            pipeline.sync();
        }
        for (int n = 0; n < 100; n++) check(answers.get(n).get(), (long) n);
        String script = "redis.call('APPEND', KEYS[1], ARGV[1]) return redis.call('STRLEN', KEYS[1])";
        for (int n = 0; n < 20; n++) check(cluster.eval(script, List.of("jedis:script:" + n), List.of("abc")), 3L);
    }

    static void incrementsOfManyThreadsAllCount(JedisCluster cluster) throws Exception {
        cluster.del("jedis:counter");
        atOnce(8, () -> {
            for (int n = 0; n < 250; n++) cluster.incr("jedis:counter");
            return null;
        });
        check(cluster.get("jedis:counter"), "2000");
    }

    static void messagesReachSubscribers(JedisCluster cluster) throws Exception {
        var heard = new ConcurrentLinkedQueue<String>();
        var subscribed = new CountDownLatch(1);
        var subscriber = new JedisPubSub() {
            @Override
            public void onSubscribe(String channel, int count) {
                subscribed.countDown();
            }

            @Override
            public void onMessage(String channel, String message) {
                heard.add(message);
                if (message.equals("last")) unsubscribe();
            }
        };
        var listening = new Thread(() -> cluster.subscribe(subscriber, "jedis:news"));
        listening.start();
        check(subscribed.await(10, TimeUnit.SECONDS), true);
        for (int n = 0; n < 20; n++) cluster.publish("jedis:news", "message-" + n);
        cluster.publish("jedis:news", "last");
        listening.join(10_000);
        check(heard.size(), 21);
    }

    static void anInterferedTransactionDoesNothing(JedisPool pool) {
        try (Jedis one = pool.getResource(); Jedis other = pool.getResource()) {
            one.set("jedis:watched", "1");
            one.watch("jedis:watched");
            other.set("jedis:watched", "2");
            Transaction transaction = one.multi();
            transaction.set("jedis:watched", "3");
            check(transaction.exec(), null);
            check(one.get("jedis:watched"), "2");
            transaction = one.multi();
            Response<Long> sum = transaction.incr("jedis:watched");
            check(transaction.exec().size(), 1);
            check(sum.get(), 3L);
        }
    }

    static void eachJobGoesToOneWorker(JedisPool pool) throws Exception {
        var done = new ConcurrentLinkedQueue<String>();
        var workers = new Thread(() -> {
            try {
                atOnce(4, () -> {
                    try (Jedis worker = pool.getResource()) {
                        for (var job = worker.blpop(10, "jedis:jobs"); !job.get(1).equals("end"); job = worker.blpop(10, "jedis:jobs")) {
                            done.add(job.get(1));
                        }
                    }
                    return null;
                });
            } catch (Exception error) {
                done.add(error.toString());
            }
        });
        workers.start();
        try (Jedis client = pool.getResource()) {
            for (int n = 0; n < 200; n++) client.rpush("jedis:jobs", "job-" + n);
            for (int n = 0; n < 4; n++) client.rpush("jedis:jobs", "end");
            workers.join(30_000);
            check(done.size(), 200);
            check(new java.util.HashSet<>(done).size(), 200);
            check(client.exists("jedis:jobs"), false);
        }
    }

    static void atOnce(int threads, Callable<Void> work) throws Exception {
        var executor = Executors.newFixedThreadPool(threads);
        try {
            List<Callable<Void>> all = new ArrayList<>();
            for (int n = 0; n < threads; n++) all.add(work);
            for (var future : executor.invokeAll(all)) future.get(60, TimeUnit.SECONDS);
        } finally {
            executor.shutdownNow();
        }
    }

    static void check(Object found, Object expected) {
        if (!java.util.Objects.equals(found, expected)) throw new AssertionError("found " + found + ", expected " + expected);
    }
}
