package vsrsim

import "testing"

// Each command is executed once, in whatever order it is tried again, before and
// after the state went through a snapshot.
func TestAtMostOnce(t *testing.T) {
	var m machine
	for _, b := range [][]command{{newCommand(0, 1), newCommand(0, 0)}, {newCommand(0, 1)}, {newCommand(2, 0), newCommand(0, 0)}} {
		e := batch(m.op+1, 0, 0, b...)
		m.apply(&e, nil)
	}
	if m.number != 3 {
		t.Fatalf("%d commands executed, want 3", m.number)
	}
	var other machine
	if !other.load(m.save(true)) || other.hash != m.hash || other.op != 3 {
		t.Fatal("the state does not survive a snapshot")
	}
	e := batch(4, 0, 0, newCommand(0, 0), newCommand(2, 1))
	m.apply(&e, nil)
	other.apply(&e, nil)
	if m.number != 4 || other.hash != m.hash {
		t.Fatal("the sessions do not survive a snapshot")
	}
	if other.load(m.save(false)); other.once(newCommand(0, 0)) != true {
		t.Fatal("a snapshot without sessions remembers them")
	}
}
