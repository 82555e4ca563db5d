// Package diagram draws a run of the simulator as a space-time diagram in SVG: a
// line a replica, time from left to right, an arrow a message, marks for views,
// crashes and commits. It draws what it is given and decides nothing; the picture
// is a function of the events alone.
//
// diagram.go is the picture's frame and its window of time, marks.go what stands
// on the lines, arrows.go the messages.
package diagram

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/diarchy/diarchy/vsrengine/vsr"
	"github.com/diarchy/diarchy/vsrengine/vsrsim"
)

// Options say what part of a run is drawn. Times are in ticks.
type Options struct {
	From, To   uint64 // To 0: a window around the first view change, as long as it can be read
	Heartbeats bool   // draw Commit and CommitOK too
	Title      string
}

const (
	microticks = 1000
	left       = 92
	right      = 28
	top        = 74
	rowHeight  = 74
	widthMin   = 900
	widthMax   = 1900
	messages   = 130 // of the window that is chosen without being told
	perMessage = 13  // pixels of width for each
)

// picture is one drawing under way.
type picture struct {
	o        Options
	from, to uint64 // microticks
	width    float64
	rows     []vsr.ID
	events   []vsrsim.Event
	lines    []line
	b        strings.Builder
}

// Write draws the events, in the order in which they were observed.
func Write(w io.Writer, events []vsrsim.Event, o Options) error {
	p := &picture{o: o, events: events}
	p.window()
	p.replicas()
	p.trackLines()
	p.frame()
	p.drawLines()
	p.drawArrows()
	p.drawMarks()
	p.legend()
	p.b.WriteString("</svg>\n")
	_, err := io.WriteString(w, p.b.String())
	return err
}

// window is the part of the run that is drawn.
func (p *picture) window() {
	p.from, p.to = p.o.From*microticks, p.o.To*microticks
	if p.to <= p.from {
		p.choose()
	}
	n := 0
	for i := range p.events {
		if e := &p.events[i]; p.drawn(e) && e.Kind == vsrsim.Sent && e.At >= p.from && e.At <= p.to {
			n++
		}
	}
	p.width = min(max(float64(n*perMessage), widthMin), widthMax)
}

// choose takes a window that begins a little before the first view change, or
// the first crash if there is none, and holds as many messages as can be read.
func (p *picture) choose() {
	start := slices.IndexFunc(p.events, func(e vsrsim.Event) bool {
		return e.Kind == vsrsim.InView && e.Phase == vsr.ViewChange
	})
	if start < 0 {
		start = slices.IndexFunc(p.events, func(e vsrsim.Event) bool { return e.Kind == vsrsim.Crashed })
	}
	if len(p.events) == 0 {
		p.from, p.to = 0, microticks
		return
	}
	if start < 0 {
		start = 0
	}
	// A quarter of the messages lies before what happened.
	first := start
	for n := 0; first > 0 && n < messages/4; first-- {
		if e := &p.events[first]; e.Kind == vsrsim.Sent && p.drawn(e) {
			n++
		}
	}
	last := first
	for n := 0; last < len(p.events)-1 && n < messages; last++ {
		if e := &p.events[last]; e.Kind == vsrsim.Sent && p.drawn(e) {
			n++
		}
	}
	p.from, p.to = p.events[first].At, p.events[last].At+1
}

func (p *picture) drawn(e *vsrsim.Event) bool {
	return p.o.Heartbeats || e.Message != vsr.Commit && e.Message != vsr.CommitOK
}

// replicas are those that had begun by the end of the window and were not gone
// before it.
func (p *picture) replicas() {
	for i := range p.events {
		e := &p.events[i]
		if e.At <= p.to && e.Replica != 0 && !slices.Contains(p.rows, e.Replica) {
			p.rows = append(p.rows, e.Replica)
		}
	}
	slices.Sort(p.rows)
}

func (p *picture) x(at uint64) float64 {
	at = min(max(at, p.from), p.to)
	return left + float64(at-p.from)/float64(p.to-p.from)*p.width
}

func (p *picture) y(id vsr.ID) float64 {
	return float64(top + rowHeight/2 + rowHeight*slices.Index(p.rows, id))
}

func (p *picture) bottom() float64 { return float64(top + rowHeight*len(p.rows)) }

func (p *picture) add(format string, args ...any) { fmt.Fprintf(&p.b, format+"\n", args...) }

// frame is the paper, the title and the axis of time.
func (p *picture) frame() {
	w, h := p.width+left+right, p.bottom()+64
	p.add(`<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f" font-family="ui-sans-serif, system-ui, sans-serif" font-size="12">`, w, h, w, h)
	p.add(`<rect width="%.0f" height="%.0f" fill="#fff"/>`, w, h)
	p.add(`<text x="16" y="28" font-size="17" font-weight="600" fill="#111">%s</text>`, escape(p.o.Title))
	step := tickStep(float64(p.to-p.from) / microticks)
	for t := (p.from/microticks + step - 1) / step * step; t*microticks <= p.to; t += step {
		x := p.x(t * microticks)
		p.add(`<line x1="%.1f" y1="%d" x2="%.1f" y2="%.0f" stroke="#eee"/>`, x, top-8, x, p.bottom())
		p.add(`<text x="%.1f" y="%d" fill="#777" text-anchor="middle" font-size="11">%d</text>`, x, top-14, t)
	}
	p.add(`<text x="%d" y="%d" fill="#777" text-anchor="end" font-size="11">tick</text>`, left-14, top-14)
}

// tickStep is a round number of ticks between lines.
func tickStep(ticks float64) uint64 {
	step := uint64(1)
	for _, f := range []uint64{2, 5, 2, 2, 5, 2, 2, 5, 2, 2, 5} {
		if ticks/float64(step) <= 16 {
			break
		}
		step = step * f
		if f == 5 {
			step /= 2
		}
	}
	return step
}

func (p *picture) legend() {
	x, y := float64(left), p.bottom()+30
	for _, c := range classes {
		p.add(`<line x1="%.0f" y1="%.0f" x2="%.0f" y2="%.0f" stroke="%s" stroke-width="2"/>`, x, y-4, x+20, y-4, c.color)
		p.add(`<text x="%.0f" y="%.0f" fill="#444">%s</text>`, x+26, y, c.name)
		x += 44 + 6.6*float64(len(c.name))
	}
	x, y = left, y+22
	for _, l := range []struct{ draw, name string }{
		{fmt.Sprintf(`<line x1="%%.0f" y1="%%.0f" x2="%%.0f" y2="%%.0f" stroke="%s" stroke-width="5"/>`, primaryColor), "primary"},
		{fmt.Sprintf(`<line x1="%%.0f" y1="%%.0f" x2="%%.0f" y2="%%.0f" stroke="%s" stroke-width="2.5"/>`, normalColor), "normal"},
		{fmt.Sprintf(`<line x1="%%.0f" y1="%%.0f" x2="%%.0f" y2="%%.0f" stroke="%s" stroke-width="3"/>`, changeColor), "view change, recovery"},
		{`<line x1="%.0f" y1="%.0f" x2="%.0f" y2="%.0f" stroke="#bbb" stroke-width="1.5" stroke-dasharray="2 4"/>`, "down or paused"},
	} {
		p.add(l.draw, x, y-4, x+20, y-4)
		p.add(`<text x="%.0f" y="%.0f" fill="#444">%s</text>`, x+26, y, l.name)
		x += 44 + 6.6*float64(len(l.name))
	}
	p.add(`<text x="%.0f" y="%.0f" fill="#444">◆ first applied there &#160; ✕ crash &#160; ● start &#160; arrows that end in ✕ were lost</text>`, x, y)
}

func escape(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}
