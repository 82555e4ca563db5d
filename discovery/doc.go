// Package discovery finds the other nodes by gossip (hashicorp/memberlist) and
// agrees with them, once, on the nodes that form a new cluster.
//
// What it tells is a hint, never a fact to act on alone: any holder of the
// gossip key can say anything. Who a node really is, the handshake on its peer
// port decides; who votes, the cluster's own log. Nothing here needs gossip to
// be right for the cluster to be safe, with one exception that bootstrap.go is
// about: the very first membership.
//
// It is not a failure detector for engines, holds no engine and no catalogue,
// and does not rotate keys on live nodes.
//
// Read pool.go first (what a program uses), then hints.go and admit.go (what
// memberlist's callbacks do: mark and leave), join.go (the search that never
// gives up), departure.go (left against failed), and bootstrap.go with its
// argument why two different sets of nodes never both form a cluster.
package discovery
