package server

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/diarchy/diarchy/server/servertest"
)

// A client is found to be slow just as its request ends: the limit may come when
// net/http has taken its parts back, and must leave them alone.
func TestCutAfterTheRequest(t *testing.T) {
	s, err := New(Config{Service: servertest.New(1).Node(0)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan *stallWriter, 1)
	hs := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw, _ := s.guardStalls(w, r, true)
		defer func() { ended <- sw }()
		defer sw.finish()
		sw.WriteHeader(http.StatusNoContent)
	}))
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	hs.Config.Protocols = p
	hs.Start()
	defer hs.Close()
	tr := &http.Transport{Protocols: p}
	defer tr.CloseIdleConnections()
	resp, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get(hs.URL)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	sw := <-ended
	// The handler has returned once a second request on the same connection is
	// answered; by then the first one's parts are gone.
	if resp, err = (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get(hs.URL); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	sw.cut()
	if sw.interrupt() {
		t.Error("a request that has ended was interrupted")
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
}
