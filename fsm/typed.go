package fsm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
)

// Typed turns one typed command at a time into [Machine.Apply]. Embed it beside
// [Base], set Handle, and write Query, Snapshot and Restore as in any machine:
//
//	type Counter struct {
//		fsm.Base
//		fsm.Typed[Add, Total]
//		…
//	}
//
// Its fields are set before Open and not changed after.
type Typed[C, R any] struct {
	// Handle executes one command. Its error becomes Result.Err, an application
	// error that replicates, and the answer that came with it is dropped; so an
	// error must be worded alike on every replica. One that wraps [ErrLost] is
	// the exception: Apply returns it, and the machine is lost.
	Handle func(e Entry, command C) (R, error)

	// Decode makes a command of Entry.Data, which belongs to the host again
	// once Apply returns: what C keeps of it must be a copy, unless Handle
	// copies. Its error becomes Result.Err, and Handle is not called. nil reads
	// JSON.
	Decode func(data []byte) (C, error)

	// Encode makes Result.Value of an answer. Its error becomes Result.Err,
	// though what Handle did stands. nil writes JSON.
	Encode func(answer R) ([]byte, error)

	// Locker, when set, is held while Handle and Tick run. A Query that takes
	// the same lock (for reading, when it is a sync.RWMutex) sees whole
	// commands only.
	Locker sync.Locker

	// Tick and Due are for machines with Capabilities.Ticks: Tick is called when
	// the group's time has moved on without a command, Due gives Result.Due after
	// each batch. Both may be nil.
	Tick func(time int64)
	Due  func() int64
}

// Apply implements [Machine].
func (t *Typed[C, R]) Apply(_ context.Context, b Batch, results []Result) error {
	if len(b.Entries) == 0 {
		t.tick(b.Time)
	}
	for i := range b.Entries {
		r, err := t.apply(&b.Entries[i])
		if err != nil {
			return err
		}
		results[i] = r
	}
	if t.Due != nil {
		results[len(results)-1].Due = t.Due()
	}
	return nil
}

func (t *Typed[C, R]) tick(time int64) {
	if t.Tick == nil {
		return
	}
	t.lock()
	defer t.unlock()
	t.Tick(time)
}

// apply runs one command; its error loses the machine.
func (t *Typed[C, R]) apply(e *Entry) (Result, error) {
	command, err := t.decode(e.Data)
	if err != nil {
		return refused(err), nil
	}
	answer, err := t.handle(e, command)
	if errors.Is(err, ErrLost) {
		return Result{}, err
	}
	if err != nil {
		return refused(err), nil
	}
	value, err := t.encode(answer)
	if err != nil {
		return refused(err), nil
	}
	return Result{Value: value}, nil
}

func (t *Typed[C, R]) handle(e *Entry, command C) (R, error) {
	t.lock()
	defer t.unlock()
	return t.Handle(*e, command)
}

func (t *Typed[C, R]) decode(data []byte) (C, error) {
	if t.Decode != nil {
		return t.Decode(data)
	}
	var command C
	if err := json.Unmarshal(data, &command); err != nil {
		return command, jsonError(data, command)
	}
	return command, nil
}

func (t *Typed[C, R]) encode(answer R) ([]byte, error) {
	if t.Encode != nil {
		return t.Encode(answer)
	}
	value, err := json.Marshal(answer)
	if err != nil {
		return nil, fmt.Errorf("the answer, a %T, cannot be written as JSON", answer)
	}
	return value, nil
}

func (t *Typed[C, R]) lock() {
	if t.Locker != nil {
		t.Locker.Lock()
	}
}

func (t *Typed[C, R]) unlock() {
	if t.Locker != nil {
		t.Locker.Unlock()
	}
}

// refused makes an application error of err. One without words would look like
// success.
func refused(err error) Result {
	text := err.Error()
	if text == "" {
		text = "refused without a reason"
	}
	return Result{Err: text}
}

// jsonError words a decoding error itself, and coarsely: the text replicates,
// and that of encoding/json changes from one Go release to the next.
func jsonError(data []byte, command any) error {
	if !json.Valid(data) {
		return fmt.Errorf("the command is no %T: it is not JSON", command)
	}
	return fmt.Errorf("the command is no %T: its JSON does not fit", command)
}
