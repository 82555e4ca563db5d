// Package client talks to a Diarchy cluster. It finds a group's leader and
// follows it, keeps sessions so that a retried command is executed once, carries
// many calls on one stream to each node, and says of every failure whether what
// was asked for happened.
//
// It holds no engine and no server. Read client.go first, then group.go (what a
// caller uses), retry.go (who is asked next, and when it is safe), stream.go
// (the data path), errors.go.
//
//	c, err := client.New(client.Config{Addresses: []string{"127.0.0.1:7960"}})
//	defer c.Close()
//	res, err := c.Group("orders").Propose(ctx, command) // executed exactly once
//	a, err := c.Group("orders").Query(ctx, query, client.ReadOptions{})
package client
