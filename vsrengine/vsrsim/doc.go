// Package vsrsim runs whole clusters of [vsr.Replica], with their clients, their
// network, their disks and their machines, as a pure function of a seed.
//
// The code under test is the core as it is shipped. Everything around it is
// invented and hostile within the fault model (decision D21 in
// vsrengine/DESIGN.md): messages are lost, late, doubled and played again,
// processes die with writes in flight, disks hang, tear and rot, operators change
// the membership meanwhile. Checkers look at everything that leaves a replica.
// When the faults have had their turn a core of the cluster is healed for good,
// the rest stays as broken as it is, and the core must get on.
//
// It is not a test of the driver (vsrengine), of the wire or of the disk format:
// those are simulated, not run. It reads no clock and no process-wide random
// source: the same seed, lane and options give the same run, byte for byte.
//
// Read options.go first (what a run is made of), then lanes.go (which faults come
// together), world.go (the loop) and node.go (how a replica's output is obeyed).
// net.go, disk.go, clients.go, machine.go and snapshots.go are what surrounds a
// replica; faults.go, rot.go, atlas.go, operator.go and ambush.go are what befalls
// it; check*.go is what must hold; live.go is the second phase. run.go has the ways
// in: [Run], [RunWith], [Hunt]; soak.go has [Soak].
package vsrsim
