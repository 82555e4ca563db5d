package client

import (
	"context"
	"errors"
	"fmt"
	"net"

	"connectrpc.com/connect"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/diarchy/diarchy/client/clientpb"
)

// Happened says whether what was asked for took effect.
type Happened uint8

// The three answers.
const (
	// No: it did not happen; asking again cannot do it twice.
	No Happened = iota
	// Maybe: it may have happened, or may yet.
	Maybe
	// Yes: it happened; only its answer is missing, or the answer was no.
	Yes
)

func (h Happened) String() string { return [...]string{"no", "maybe", "yes"}[h] }

// Error is what every method fails with. docs/errors.md has all codes.
type Error struct {
	Code     string
	Happened Happened
	Message  string
	// Leader and LeaderAddr name the group's leader, when the error tells.
	Leader, LeaderAddr string
	// Index is the number the error speaks of: of the command that happened
	// (result_gone, refused), the oldest kept (compacted), the revision found
	// (conflict).
	Index uint64

	cause error
}

func (e *Error) Error() string {
	if e.Message == "" {
		return e.Code
	}
	return e.Message
}

// Unwrap gives what ended the tries, such as context.DeadlineExceeded.
func (e *Error) Unwrap() error { return e.cause }

// Is compares codes, so that the sentinels below match any error of theirs.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code
}

// As offers the error as one of the kinds below when its code is theirs.
func (e *Error) As(target any) bool {
	switch t := target.(type) {
	case **NotLeaderError:
		if e.Code != pb.CodeNotLeader {
			return false
		}
		*t = &NotLeaderError{Leader: e.Leader, LeaderAddr: e.LeaderAddr, err: e}
	case **ResultGoneError:
		if e.Code != pb.CodeResultGone {
			return false
		}
		*t = &ResultGoneError{Index: e.Index, err: e}
	case **CompactedError:
		if e.Code != pb.CodeCompacted {
			return false
		}
		*t = &CompactedError{Oldest: e.Index, err: e}
	default:
		return false
	}
	return true
}

// NotLeaderError: it did not happen; safe to send to LeaderAddr, when known.
type NotLeaderError struct {
	Leader, LeaderAddr string
	err                *Error
}

func (e *NotLeaderError) Error() string { return e.err.Error() }

// ResultGoneError: the command happened, as number Index, by an earlier try.
type ResultGoneError struct {
	Index uint64
	err   *Error
}

func (e *ResultGoneError) Error() string { return e.err.Error() }

// CompactedError: the oldest command that can still be read is Oldest.
type CompactedError struct {
	Oldest uint64
	err    *Error
}

func (e *CompactedError) Error() string { return e.err.Error() }

// Sentinels for errors.Is, those that callers tell apart most often. Any other
// code of docs/errors.md is compared with Error.Code.
var (
	ErrNotLeader      = &Error{Code: pb.CodeNotLeader}
	ErrNoQuorum       = &Error{Code: pb.CodeNoQuorum}
	ErrBusy           = &Error{Code: pb.CodeBusy}
	ErrOutcomeUnknown = &Error{Code: pb.CodeOutcomeUnknown, Happened: Maybe}
	ErrTooLarge       = &Error{Code: pb.CodeTooLarge}
	ErrInvalid        = &Error{Code: pb.CodeInvalid}
	ErrNoSuchGroup    = &Error{Code: pb.CodeNoSuchGroup}
	ErrSessionExpired = &Error{Code: pb.CodeSessionExpired, Happened: Maybe}
	ErrResultGone     = &Error{Code: pb.CodeResultGone, Happened: Yes}
	ErrCompacted      = &Error{Code: pb.CodeCompacted}
	ErrOtherHistory   = &Error{Code: pb.CodeOtherHistory}
	ErrUnsupported    = &Error{Code: pb.CodeUnsupported}
	ErrConflict       = &Error{Code: pb.CodeConflict}
	ErrRefused        = &Error{Code: pb.CodeRefused, Happened: Yes}
	ErrDenied         = &Error{Code: pb.CodeDenied}
	ErrUnavailable    = &Error{Code: pb.CodeUnavailable}
	ErrClosed         = &Error{Code: pb.CodeClosed}
)

var (
	errClosed    = &Error{Code: pb.CodeClosed, Message: "the client has been closed"}
	errForgotten = &Error{Code: pb.CodeUnavailable, Message: "the node was forgotten for newer ones"}
)

// HappenedOf tells what is known of the effect of what failed with err. Of an
// error that is not this package's nothing is known.
func HappenedOf(err error) Happened {
	var e *Error
	if errors.As(err, &e) {
		return e.Happened
	}
	return Maybe
}

// CodeOf is err's code, "" for an error that is not this package's.
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// ExitCode is what a command that failed with err exits with.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	if code := CodeOf(err); code != "" {
		return pb.RowOf(code).Exit
	}
	return 1
}

func errorFrom(m *pb.Error) *Error {
	h := Maybe
	switch m.Happened {
	case pb.Happened_HAPPENED_NO:
		h = No
	case pb.Happened_HAPPENED_YES:
		h = Yes
	}
	return &Error{Code: m.Code, Happened: h, Message: m.Message, Leader: m.Leader, LeaderAddr: m.LeaderAddr, Index: m.Index}
}

// fromConnect reads the error of a call that was not on a stream.
func fromConnect(err error) *Error {
	var own *Error
	if errors.As(err, &own) {
		return own
	}
	var c *connect.Error
	if !errors.As(err, &c) {
		return lost(err)
	}
	for _, d := range c.Details() {
		if v, err := d.Value(); err == nil {
			if m, ok := v.(*pb.Error); ok {
				return errorFrom(m)
			}
		}
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return unavailable(err)
	}
	return byCode(c.Code(), c.Message(), err)
}

// fromStatus reads the error that ended a stream.
func fromStatus(err error) *Error {
	st, ok := status.FromError(err)
	if !ok || st.Code() == codes.OK {
		return lost(err)
	}
	for _, d := range st.Details() {
		if m, ok := d.(*pb.Error); ok {
			return errorFrom(m)
		}
	}
	return byCode(connect.Code(st.Code()), st.Message(), err)
}

// byCode is for answers without a detail: of a proxy, of the transport, of a
// door that could not tell more. Only what cannot have reached a group did not
// happen.
func byCode(c connect.Code, message string, err error) *Error {
	code := ""
	switch c {
	case connect.CodeUnauthenticated:
		code = pb.CodeUnauthenticated
	case connect.CodePermissionDenied:
		code = pb.CodeDenied
	case connect.CodeUnimplemented:
		code = pb.CodeUnsupported
	case connect.CodeInvalidArgument:
		code = pb.CodeInvalid
	case connect.CodeResourceExhausted:
		code = pb.CodeTooLarge // what the transport calls so is a long message
	default:
		return lost(err)
	}
	return &Error{Code: code, Message: message, cause: err}
}

// lost: the request may have arrived, and no answer did.
func lost(err error) *Error {
	return &Error{Code: pb.CodeOutcomeUnknown, Happened: Maybe, Message: fmt.Sprintf("the answer was lost: %v", err), cause: contextCause(err)}
}

// unavailable: nothing was sent.
func unavailable(err error) *Error {
	return &Error{Code: pb.CodeUnavailable, Message: fmt.Sprintf("no connection to the node: %v", err), cause: contextCause(err)}
}

// contextCause keeps a context's end recognisable and drops everything else:
// what other packages' errors say is in the message.
func contextCause(err error) error {
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return context.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		return context.Canceled
	}
	return nil
}
