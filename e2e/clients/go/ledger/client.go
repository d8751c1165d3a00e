package ledger

import (
	"net"
	"strconv"

	"github.com/redis/go-redis/v9"
)

// Target names the cluster to talk to.
type Target struct {
	Host     string
	Port     int
	Password string
}

// Client gives a cluster client with the library's own defaults.
func (t Target) Client() *redis.ClusterClient {
	return redis.NewClusterClient(&redis.ClusterOptions{
		Addrs:    []string{net.JoinHostPort(t.Host, strconv.Itoa(t.Port))},
		Password: t.Password,
	})
}
