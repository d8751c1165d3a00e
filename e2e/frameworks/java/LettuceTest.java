import io.lettuce.core.KeyValue;
import io.lettuce.core.ReadFrom;
import io.lettuce.core.RedisClient;
import io.lettuce.core.RedisFuture;
import io.lettuce.core.ScoredValue;
import io.lettuce.core.ScriptOutputType;
import io.lettuce.core.SetArgs;
import io.lettuce.core.TransactionResult;
import io.lettuce.core.cluster.RedisClusterClient;
import io.lettuce.core.cluster.api.StatefulRedisClusterConnection;
import io.lettuce.core.pubsub.RedisPubSubAdapter;
import java.util.ArrayList;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/** Lettuce, Spring's client: RESP3, one connection for all threads, its picture of the cluster from CLUSTER NODES, reads from copies.
 * In: CLUSTER_PORT and PORT. Any claim that does not hold ends it with an exception. */
public class LettuceTest {
    static final int CLUSTER_PORT = Integer.parseInt(System.getenv("CLUSTER_PORT"));
    static final int PORT = Integer.parseInt(System.getenv("PORT"));

    public static void main(String[] arguments) throws Exception {
        var clusterClient = RedisClusterClient.create("redis://127.0.0.1:" + CLUSTER_PORT);
        try (var cluster = clusterClient.connect()) {
            theWholeClusterIsSeen(clusterClient);
            valuesAreFoundWhereverTheyAre(cluster);
            valuesEnd(cluster);
            manyRequestsAreUnderWayAtOnce(cluster);
            copiesAnswerReads(clusterClient, cluster);
            messagesReachSubscribers(clusterClient, cluster);
        } finally {
            clusterClient.shutdown(0, 1, TimeUnit.SECONDS);
        }
        var client = RedisClient.create("redis://127.0.0.1:" + PORT + "/6");
        try {
            anInterferedTransactionDoesNothing(client);
            eachJobGoesToOneWorker(client);
        } finally {
            client.shutdown(0, 1, TimeUnit.SECONDS);
        }
        System.out.println("passed");
    }

    static void theWholeClusterIsSeen(RedisClusterClient client) {
        var partitions = client.getPartitions();
        check(partitions.size(), 6);
        check(partitions.stream().filter(node -> node.getSlots().isEmpty()).count(), 3L);
        check(partitions.stream().mapToInt(node -> node.getSlots().size()).sum(), 16_384);
    }

    static void valuesAreFoundWhereverTheyAre(StatefulRedisClusterConnection<String, String> connection) {
        var cluster = connection.sync();
        for (int n = 0; n < 300; n++) check(cluster.set("lettuce:" + n, "value-" + n), "OK");
        // MGET and DEL over slots are split by the client.
        var keys = new String[300];
        for (int n = 0; n < 300; n++) keys[n] = "lettuce:" + n;
        int number = 0;
        for (KeyValue<String, String> entry : cluster.mget(keys)) check(entry.getValue(), "value-" + number++);
        check(cluster.del(keys), 300L);
        cluster.hset("lettuce:hash", Map.of("a", "1", "b", "2"));
        check(cluster.hgetall("lettuce:hash"), Map.of("a", "1", "b", "2"));
        cluster.zadd("lettuce:scores", ScoredValue.just(1, "low"), ScoredValue.just(2.5, "high"));
        check(cluster.zrevrangeWithScores("lettuce:scores", 0, 0), List.of(ScoredValue.just(2.5, "high")));
        String script = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
        cluster.del("lettuce:script");
        check(cluster.<Long>eval(script, ScriptOutputType.INTEGER, new String[] {"lettuce:script"}, "7"), 7L);
        check(cluster.<Long>evalsha(cluster.digest(script), ScriptOutputType.INTEGER, new String[] {"lettuce:script"}, "7"), 14L);
    }

    static void valuesEnd(StatefulRedisClusterConnection<String, String> connection) throws InterruptedException {
        var cluster = connection.sync();
        check(cluster.set("lettuce:short", "x", SetArgs.Builder.px(150)), "OK");
        check(cluster.set("lettuce:short", "y", SetArgs.Builder.nx()), null);
        for (int looks = 0; cluster.exists("lettuce:short") > 0; looks++) {
            check(looks < 200, true);
            Thread.sleep(10);
        }
    }

    static void manyRequestsAreUnderWayAtOnce(StatefulRedisClusterConnection<String, String> connection) throws Exception {
        connection.sync().del("lettuce:counter");
        List<RedisFuture<Long>> answers = new ArrayList<>();
        for (int n = 0; n < 2_000; n++) answers.add(connection.async().incr("lettuce:counter"));
        // Its requests are executed in the order in which they were made.
        for (int n = 0; n < 2_000; n++) check(answers.get(n).get(30, TimeUnit.SECONDS), n + 1L);
    }

    static void copiesAnswerReads(RedisClusterClient client, StatefulRedisClusterConnection<String, String> connection) {
        for (int n = 0; n < 60; n++) connection.sync().set("lettuce:copied:" + n, "value-" + n);
        try (var reader = client.connect()) {
            reader.setReadFrom(ReadFrom.REPLICA);
            // An answer to a write means that the in-sync copies have it.
            for (int n = 0; n < 60; n++) check(reader.sync().get("lettuce:copied:" + n), "value-" + n);
        }
    }

    static void messagesReachSubscribers(RedisClusterClient client, StatefulRedisClusterConnection<String, String> connection)
            throws Exception {
        var heard = new CountDownLatch(20);
        try (var subscriber = client.connectPubSub()) {
            subscriber.addListener(new RedisPubSubAdapter<String, String>() {
                @Override
                public void message(String channel, String message) {
                    heard.countDown();
                }
            });
            subscriber.sync().subscribe("lettuce:news");
            for (int n = 0; n < 20; n++) connection.sync().publish("lettuce:news", "message-" + n);
            check(heard.await(10, TimeUnit.SECONDS), true);
        }
    }

    static void anInterferedTransactionDoesNothing(RedisClient client) {
        try (var one = client.connect(); var other = client.connect()) {
            one.sync().set("lettuce:watched", "1");
            one.sync().watch("lettuce:watched");
            other.sync().set("lettuce:watched", "2");
            one.sync().multi();
            one.sync().set("lettuce:watched", "3");
            check(one.sync().exec().wasDiscarded(), true);
            one.sync().multi();
            one.sync().incr("lettuce:watched");
            TransactionResult result = one.sync().exec();
            check(result.<Long>get(0), 3L);
        }
    }

    static void eachJobGoesToOneWorker(RedisClient client) throws Exception {
        List<String> done = java.util.Collections.synchronizedList(new ArrayList<>());
        List<Thread> workers = new ArrayList<>();
        for (int worker = 0; worker < 4; worker++) {
            workers.add(new Thread(() -> {
                try (var connection = client.connect()) {
                    for (;;) {
                        var job = connection.sync().blpop(10, "lettuce:jobs");
                        if (job == null || job.getValue().equals("end")) return;
                        done.add(job.getValue());
                    }
                }
            }));
        }
        workers.forEach(Thread::start);
        try (var connection = client.connect()) {
            for (int n = 0; n < 200; n++) connection.async().rpush("lettuce:jobs", "job-" + n);
            for (int n = 0; n < 4; n++) connection.sync().rpush("lettuce:jobs", "end");
            for (Thread worker : workers) worker.join(30_000);
            check(done.size(), 200);
            check(new HashSet<>(done).size(), 200);
            check(connection.sync().exists("lettuce:jobs"), 0L);
        }
    }

    static void check(Object found, Object expected) {
        if (!java.util.Objects.equals(found, expected)) throw new AssertionError("found " + found + ", expected " + expected);
    }
}
