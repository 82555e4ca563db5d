package client

// Known counts the nodes that a group's client knows.
func Known(g *Group) int {
	g.c.mu.Lock()
	defer g.c.mu.Unlock()
	return len(g.c.cfg.Addresses) + len(g.c.learnt)
}
