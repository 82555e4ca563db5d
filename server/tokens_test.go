package server

import (
	"net/http"
	"testing"
)

func TestTokensCanBeChanged(t *testing.T) {
	s := &Server{}
	s.keys.set(newKeys("old-admin", "old-read"))
	have := func(token string) right {
		return s.keys.rightOf(http.Header{"Authorization": {"Bearer " + token}})
	}
	if have("old-admin") != admin || have("old-read") != reader {
		t.Fatal("the first tokens do not work")
	}
	if err := s.SetTokens("new-admin", "new-read"); err != nil {
		t.Fatal(err)
	}
	if have("new-admin") != admin || have("new-read") != reader || have("old-admin") != nobody || have("old-read") != nobody {
		t.Fatal("the tokens were not replaced")
	}
	for _, bad := range [][2]string{{"", ""}, {"", "x"}, {"same", "same"}} {
		if err := s.SetTokens(bad[0], bad[1]); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if have("new-admin") != admin || have("") != nobody {
		t.Fatal("what was refused has changed the tokens")
	}
	open := &Server{}
	open.keys.set(newKeys("", ""))
	if err := open.SetTokens("token", ""); err == nil {
		t.Error("a server without a token gets one while it runs")
	}
}
