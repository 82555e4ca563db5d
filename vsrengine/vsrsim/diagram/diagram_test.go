package diagram

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/diarchy/diarchy/vsrengine/vsrsim"
)

func draw(t *testing.T, seed uint64, lane vsrsim.Lane, o Options) string {
	t.Helper()
	var events []vsrsim.Event
	vsrsim.Run(seed, lane, func(e *vsrsim.Event) { events = append(events, *e) })
	var b bytes.Buffer
	if err := Write(&b, events, o); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Every picture is well-formed, whatever the run and the part of it, and the same
// run gives the same picture.
func TestPictures(t *testing.T) {
	for _, lane := range vsrsim.Lanes() {
		for _, o := range []Options{{Title: "a < b & c"}, {From: 5, To: 9}, {From: 100_000, To: 100_001}, {Heartbeats: true}} {
			svg := draw(t, 3, lane, o)
			d := xml.NewDecoder(strings.NewReader(svg))
			for {
				_, err := d.Token()
				if errors.Is(err, io.EOF) {
					break
				}
				if err != nil {
					t.Fatalf("lane %s, %+v: %v", lane, o, err)
				}
			}
			if svg != draw(t, 3, lane, o) {
				t.Errorf("lane %s: two pictures of one run differ", lane)
			}
			if strings.Contains(svg, "NaN") || strings.Contains(svg, "Inf") {
				t.Errorf("lane %s, %+v: a coordinate is no number", lane, o)
			}
		}
	}
}

// A run with a crash and a view change shows both, and its arrows.
func TestPictureShowsWhatHappened(t *testing.T) {
	svg := draw(t, 3, "crash", Options{Title: "seed 3"})
	for _, want := range []string{"seed 3", "replica 1", "view 1", "✕", "DoViewChange", "Prepare", primaryColor, changeColor} {
		if !strings.Contains(svg, want) {
			t.Errorf("the picture does not show %q", want)
		}
	}
	if strings.Contains(svg, "CommitOK") {
		t.Error("heartbeats are drawn though they were not asked for")
	}
}

func TestNothingToDraw(t *testing.T) {
	var b bytes.Buffer
	if err := Write(&b, nil, Options{}); err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(b.String(), "</svg>\n") {
		t.Error("the picture of no events is not whole")
	}
}
