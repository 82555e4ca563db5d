package server

import (
	"errors"
	"net/http"
	"sync/atomic"
)

// keyRing is the tokens of the moment; they may be changed while the server
// runs.
type keyRing struct{ now atomic.Pointer[keys] }

func (r *keyRing) set(k keys) { r.now.Store(&k) }

func (r *keyRing) rightOf(h http.Header) right { return r.now.Load().rightOf(h) }

// SetTokens replaces the tokens; requests from now on need the new ones. Whether
// there is an administrator token at all cannot change while the server runs.
func (s *Server) SetTokens(adminToken, readToken string) error {
	switch {
	case (adminToken == "") != s.keys.now.Load().open:
		return errors.New("server: an administrator token can be changed, but not be added or taken away, while the server runs")
	case adminToken == "" && readToken != "":
		return errReadTokenAlone
	case adminToken != "" && adminToken == readToken:
		return errSameTokens
	}
	s.keys.set(newKeys(adminToken, readToken))
	return nil
}
