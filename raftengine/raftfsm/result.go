package raftfsm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"

	"github.com/diarchy/diarchy/fsm"
)

// result is what becomes of what the FSM returned: nil is an empty answer, an
// error an application error, and EncodeResult knows about the rest.
func (m *machine) result(returned any) fsm.Result {
	switch v := returned.(type) {
	case nil:
		return fsm.Result{}
	case error:
		if isNilPointer(v) {
			return fsm.Result{}
		}
		return refused(v)
	}
	value, err := m.o.EncodeResult(returned)
	if err != nil {
		return refused(err)
	}
	return fsm.Result{Value: value}
}

// isNilPointer finds an error that is a nil *T: who returns one means none, and
// its Error method would rather not be called.
func isNilPointer(err error) bool {
	v := reflect.ValueOf(err)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// refused makes an application error; one without words would look like success.
func refused(err error) fsm.Result {
	text := err.Error()
	if text == "" {
		text = fmt.Sprintf("refused with a %T without words", err)
	}
	return fsm.Result{Err: text}
}

// EncodeResult is what Options.EncodeResult is when it is nil: []byte and string
// as they are, anything else as JSON. What JSON cannot say (a channel, a function,
// NaN) is an error that names the type.
func EncodeResult(result any) ([]byte, error) {
	switch v := result.(type) {
	case []byte:
		// An FSM may return its own bytes, and change them with a later command.
		return bytes.Clone(v), nil
	case string:
		return []byte(v), nil
	}
	b, err := json.Marshal(result)
	if err != nil {
		return nil, fmt.Errorf("raftfsm: the result is a %T, which JSON cannot say: return []byte, string, an error or a value for JSON, or set Options.EncodeResult", result)
	}
	return b, nil
}
