package vision

import (
	"bytes"
	"encoding/binary"
)

// exifOrientation returns the EXIF orientation of a JPEG file, 1 (upright) where
// there is none or it makes no sense.
func exifOrientation(data []byte) int {
	const upright = 1
	for at := 2; at+4 <= len(data) && data[at] == 0xff; {
		marker, size := data[at+1], int(binary.BigEndian.Uint16(data[at+2:]))
		if marker == 0xda || size < 2 || at+2+size > len(data) { // start of scan
			break
		}
		segment := data[at+4 : at+2+size]
		at += 2 + size
		tiff, ok := bytes.CutPrefix(segment, []byte("Exif\x00\x00"))
		if marker != 0xe1 || !ok || len(tiff) < 8 {
			continue
		}
		var order binary.ByteOrder = binary.BigEndian
		if tiff[0] == 'I' {
			order = binary.LittleEndian
		}
		ifd := int64(order.Uint32(tiff[4:]))
		if ifd+2 > int64(len(tiff)) {
			return upright
		}
		entries := tiff[ifd+2:]
		for range order.Uint16(tiff[ifd:]) {
			if len(entries) < 12 {
				return upright
			}
			const orientation, short = 0x0112, 3
			if order.Uint16(entries) == orientation && order.Uint16(entries[2:]) == short {
				if o := int(order.Uint16(entries[8:])); o >= 1 && o <= 8 {
					return o
				}
				return upright
			}
			entries = entries[12:]
		}
	}
	return upright
}

// orient returns the image as it should be seen, from the way it is stored.
func orient(img *RGB, orientation int) *RGB {
	if orientation <= 1 {
		return img
	}
	w, h := img.W, img.H
	out := &RGB{Pix: make([]uint8, len(img.Pix)), W: w, H: h}
	if orientation >= 5 {
		out.W, out.H = h, w
	}
	for y := range out.H {
		for x := range out.W {
			sx, sy := x, y
			switch orientation {
			case 2:
				sx = w - 1 - x
			case 3:
				sx, sy = w-1-x, h-1-y
			case 4:
				sy = h - 1 - y
			case 5:
				sx, sy = y, x
			case 6:
				sx, sy = y, h-1-x
			case 7:
				sx, sy = w-1-y, h-1-x
			case 8:
				sx, sy = w-1-y, x
			}
			copy(out.Pix[3*(y*out.W+x):][:3], img.Pix[3*(sy*w+sx):])
		}
	}
	return out
}
