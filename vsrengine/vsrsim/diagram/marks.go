package diagram

import (
	"github.com/diarchy/diarchy/vsrengine/vsr"
	"github.com/diarchy/diarchy/vsrengine/vsrsim"
)

const (
	primaryColor = "#1f3a68"
	normalColor  = "#8a94a6"
	changeColor  = "#e8a33d"
)

// line is what a replica was from one moment on.
type line struct {
	id       vsr.ID
	from, to uint64
	state    state
}

type state uint8

const (
	down state = iota
	normal
	primary
	changing
)

// trackLines turns events into the stretches of each replica's line.
func (p *picture) trackLines() {
	for _, id := range p.rows {
		now := line{id: id}
		end := func(at uint64, s state) {
			if now.state == s {
				return
			}
			now.to = at
			if now.to > now.from {
				p.lines = append(p.lines, now)
			}
			now.from, now.state = at, s
		}
		paused := now.state
		for i := range p.events {
			e := &p.events[i]
			if e.At > p.to {
				break
			}
			if e.Replica != id {
				continue
			}
			switch e.Kind {
			case vsrsim.Started:
				end(e.At, normal)
			case vsrsim.Crashed, vsrsim.Wiped, vsrsim.Left:
				end(e.At, down)
			case vsrsim.Paused:
				paused = now.state
				end(e.At, down)
			case vsrsim.Resumed:
				end(e.At, paused)
			case vsrsim.InView:
				end(e.At, phaseState(e.Phase))
			case vsrsim.Sent:
				if now.state == normal && (e.Message == vsr.Prepare || e.Message == vsr.Commit || e.Message == vsr.StartView) {
					end(e.At, primary)
				}
			}
		}
		now.to = p.to
		p.lines = append(p.lines, now)
	}
}

func phaseState(ph vsr.Phase) state {
	switch ph {
	case vsr.Normal:
		return normal
	case vsr.Retired, vsr.Halted:
		return down
	}
	return changing
}

func (p *picture) drawLines() {
	for _, id := range p.rows {
		p.add(`<text x="%d" y="%.1f" text-anchor="end" font-weight="600" fill="#333">replica %d</text>`, left-14, p.y(id)+4, id)
	}
	for _, l := range p.lines {
		if l.to <= p.from {
			continue
		}
		style := `stroke="#bbb" stroke-width="1.5" stroke-dasharray="2 4"`
		switch l.state {
		case normal:
			style = `stroke="` + normalColor + `" stroke-width="2.5"`
		case primary:
			style = `stroke="` + primaryColor + `" stroke-width="5"`
		case changing:
			style = `stroke="` + changeColor + `" stroke-width="3"`
		}
		p.add(`<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" %s/>`, p.x(l.from), p.y(l.id), p.x(l.to), p.y(l.id), style)
	}
}

// drawMarks puts views, crashes, starts and commits on the lines. A label that
// would cover the one before is left out.
func (p *picture) drawMarks() {
	views := make([]vsr.View, len(p.rows))
	free := make([]float64, len(p.rows)) // x from which the next label fits
	lastCommit := -100.0
	for i := range p.events {
		e := &p.events[i]
		if e.At > p.to {
			break
		}
		row := -1
		for k, id := range p.rows {
			if id == e.Replica {
				row = k
			}
		}
		if row < 0 {
			continue
		}
		x, y := p.x(e.At), p.y(e.Replica)
		inside := e.At >= p.from
		switch e.Kind {
		case vsrsim.InView:
			if e.View != views[row] && inside && x >= free[row] {
				p.label(x, y, "view "+e.View.String())
				free[row] = x + 52
			}
			views[row] = e.View
		case vsrsim.Crashed, vsrsim.Wiped:
			if inside {
				p.add(`<text x="%.1f" y="%.1f" text-anchor="middle" font-size="17" font-weight="700" fill="#b3261e">✕</text>`, x, y+6)
			}
		case vsrsim.Started:
			if inside && e.At > 0 {
				p.add(`<circle cx="%.1f" cy="%.1f" r="5" fill="#2e7d32"/>`, x, y)
			}
		case vsrsim.Committed:
			if inside {
				p.add(`<text x="%.1f" y="%.1f" text-anchor="middle" font-size="9" fill="#1f3a68">◆</text>`, x, y-7)
				if x-lastCommit > 22 {
					p.add(`<text x="%.1f" y="%.1f" text-anchor="middle" font-size="9" fill="#1f3a68">%d</text>`, x, y-15, e.Op)
					lastCommit = x
				}
			}
		case vsrsim.Installed:
			if inside {
				p.label(x, y+36, "snapshot")
			}
		}
	}
}

func (p *picture) label(x, y float64, text string) {
	width := 7 + 6.2*float64(len(text))
	x = min(x, left+p.width+right-2-width)
	p.add(`<rect x="%.1f" y="%.1f" width="%.0f" height="15" rx="3" fill="#fff4dc" stroke="%s"/>`, x, y+7, width, changeColor)
	p.add(`<text x="%.1f" y="%.1f" font-size="11" fill="#6b4700">%s</text>`, x+4, y+18.5, text)
}
