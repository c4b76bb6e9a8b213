package cli

import (
	"bytes"
	"flag"
	"image/png"
	"os"
	"testing"

	"github.com/chromedp/chromedp"
)

var update = flag.Bool("update", false, "take the README's picture of the page anew")

const (
	picture     = "../../web/console.png"
	pictureMost = 300_000 // bytes, so that the README opens quickly
)

func TestReadmePictureIsThere(t *testing.T) {
	if *update {
		takePicture(t)
	}
	b, err := os.ReadFile(picture)
	if err != nil {
		t.Fatal(err)
	}
	size, err := png.DecodeConfig(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	if size.Width < 1200 || size.Height < 700 || len(b) > pictureMost {
		t.Errorf("the picture has %d × %d pixels in %d bytes", size.Width, size.Height, len(b))
	}
}

// takePicture shows an answer after a drop, with three viewers, one of which is slow.
func takePicture(t *testing.T) {
	p := openConsole(t, startDemo(t))
	p.do(chromedp.EmulateViewport(1280, 760, chromedp.EmulateScale(1.35)),
		chromedp.Click("#tab-viewers"), chromedp.Click("#add-viewer"), chromedp.Click("#add-viewer"), chromedp.Click("#add-slow"),
		chromedp.Click(`[data-prompt^="Please think"]`))
	p.until(`document.querySelector(".turn .text")?.textContent.length > 20`)
	p.do(chromedp.Click("#drop"))
	p.until(`document.querySelector(".turn .text").textContent.length > 800`)
	shot, err := chromedp.Run(p.tab, chromedp.CaptureScreenshot())
	if err == nil {
		err = os.WriteFile(picture, shot, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
}
