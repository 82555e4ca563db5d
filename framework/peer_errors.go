package framework

import (
	"context"
	"errors"
	"io"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/diarchy/diarchy/framework/peerpb"
)

func errorToWire(err error) *peerpb.Error {
	e := AsError(err)
	return &peerpb.Error{
		Code: string(e.Code), Happened: uint32(e.Happened), Message: e.Message,
		Leader: string(e.Leader), LeaderAddr: e.LeaderAddr, Index: e.Index,
	}
}

// errorFromWire reads an error of another node. One that says nothing sensible
// about what happened is taken as Maybe.
func errorFromWire(e *peerpb.Error) *Error {
	out := &Error{
		Code: Code(e.Code), Happened: Maybe, Message: e.Message,
		Leader: NodeID(e.Leader), LeaderAddr: e.LeaderAddr, Index: e.Index,
	}
	if e.Happened <= uint32(Yes) {
		out.Happened = Happened(e.Happened)
	}
	if out.Code == "" {
		out.Code = CodeInternal
	}
	return out
}

// wireStatus is err as a gRPC status that carries all of it.
func wireStatus(err error) error {
	if err == nil {
		return nil
	}
	// A caller that has gone needs no detail, and its own end must look like one.
	if errors.Is(err, context.Canceled) {
		return status.FromContextError(context.Canceled).Err()
	}
	s, derr := status.New(codes.FailedPrecondition, AsError(err).Error()).WithDetails(errorToWire(err))
	if derr != nil {
		return status.Error(codes.Internal, err.Error())
	}
	return s.Err()
}

// callError says what became of a call to another node. changes is whether the
// call could have changed anything, sent whether it may have left this node.
func callError(to NodeID, err error, changes, sent bool) error {
	if err == nil {
		return nil
	}
	st := status.Convert(err)
	for _, d := range st.Details() {
		if e, ok := d.(*peerpb.Error); ok {
			return errorFromWire(e)
		}
	}
	if changes && sent {
		return ErrMaybe.Because("node %s took the request and its answer was lost (%s): it may have happened", to, st.Message())
	}
	switch st.Code() {
	case codes.DeadlineExceeded, codes.Canceled:
		return ErrDeadline.Because("node %s did not answer in time", to)
	case codes.Unimplemented:
		return ErrUnsupported.Because("node %s is of a version that cannot do this: upgrade it", to)
	}
	return unreachable(to, st.Message())
}

// unreachableError is a node that could not be asked: nothing happened there.
type unreachableError struct{ as *Error }

func (e *unreachableError) Error() string { return e.as.Error() }
func (e *unreachableError) Unwrap() error { return e.as }

func unreachable(to NodeID, why string) error {
	return &unreachableError{ErrNoQuorum.Because("node %s cannot be reached: %s", to, why)}
}

// isUnreachable reports whether err is of a node that could not be asked.
func isUnreachable(err error) bool {
	var u *unreachableError
	return errors.As(err, &u)
}

// isEnd reports the regular end of a stream.
func isEnd(err error) bool { return errors.Is(err, io.EOF) }
